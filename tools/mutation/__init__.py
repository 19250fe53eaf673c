"""The checks are verified: mistakes are planted in the library, one at a time, and a check must notice each.

command   the run, `scripts/mutate`                              report: tables and rows
sources   which functions are mutated, and how a mutant takes their place
rules     the mistakes, by rule     nodes: pieces of syntax      make: every rule in every place
suite     the checks a mutant must survive                       properties, module_properties
evaluator     killed, equivalent, or survived                        probes, module_probes; reasons: why, in words
rewrites  other ways to write the same, which must be accepted
"""
