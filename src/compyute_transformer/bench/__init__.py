"""Benchmarks: our steps, ops and generation beside PyTorch's, measured in turns in one process."""
