"""Records of the ops and the modules, one file a topic. `registry` collects them.

A record holds everything that verification, benchmarks and documentation must know: `OPS` of the ops of the topic,
`MODULES` of the modules of `nn`. The arguments of the cases are drawn so that a wrong gradient hardly passes by luck.
No two axes have one length where the op allows it; weights and biases are drawn, never 1 and 0, which would hide a
missing factor and a missing sum. Each op also has a case called `large`, just past the powers of two at which fast code
goes from one block or vector to the next.
"""
