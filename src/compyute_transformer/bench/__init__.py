"""THE RACES, and the ground they are run on.

machine    what this machine is: processor, BLAS, packages, environment, GPU
doctor     what of it holds speed back, and what to do
ground     the machine in the words of a CSV row, and what spoils a race on it
race       candidates take turns: medians, spread, ratio; parity first
step       a training step, ours beside PyTorch's     workload, torch_step, torch_gpt, torch_vaswani
attention  the algorithms beside each other, and the op alone beside PyTorch's
ops        each kernel beside its reference, and beside a plain copy or matrix product
generate   a model that writes, with its cache and without, beside transformers_gpt
ladder     a step, adding kernels of one kind at a time
startup    from nothing to the first step
peak       the most memory a candidate ever held
show       a table; plot: a chart; command: `compyute bench`
"""
