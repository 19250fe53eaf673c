"""A sample of the mutations and single-bit flips of `run_fuzz`; `python tests/run_fuzz.py` makes 12,000."""

import os
from pathlib import Path

import pytest
from run_fuzz import fuzz, make_run

from compyute_transformer import use_kernels


@pytest.mark.skipif(os.name == "nt", reason="needs SIGALRM")
@pytest.mark.parametrize("tokenizer", ["characters", "bpe"])
def test_damaged_files_of_a_run_are_refused_in_words_or_change_nothing(tmp_path: Path, tokenizer: str) -> None:
    with use_kernels("reference"):
        run = make_run(tmp_path, tokenizer)
    assert not fuzz(run, mutations=100, flips=150, seed=1)
