"""The machine the library runs on: facts, conditions of a benchmark, and advice on speed."""
