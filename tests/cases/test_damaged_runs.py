"""A sample of the mutations and single-bit flips of `run_fuzz`; `python tests/run_fuzz.py` makes 12,000."""

import json
import os
from pathlib import Path

import pytest
from run_fuzz import fuzz, make_run

from compyute_transformer import use_kernels
from compyute_transformer.errors import RunError
from compyute_transformer.training import load_config
from compyute_transformer.training.run.schema import digest


@pytest.mark.skipif(os.name == "nt", reason="needs SIGALRM")
@pytest.mark.parametrize("tokenizer", ["characters", "bpe"])
def test_damaged_files_of_a_run_are_refused_in_words_or_change_nothing(tmp_path: Path, tokenizer: str) -> None:
    with use_kernels("reference"):
        run = make_run(tmp_path, tokenizer)
    assert not fuzz(run, mutations=100, flips=150, seed=1)


def test_names_of_unknown_fields_do_not_control_the_terminal(tmp_path: Path) -> None:
    with use_kernels("reference"):
        path = make_run(tmp_path, "characters") / "config.json"
    values = json.loads(path.read_text(encoding="utf-8")) | {"\x1b[31m\t\u202e": 1}
    del values["checksum"]
    path.write_text(json.dumps({**values, "checksum": digest(values)}), encoding="utf-8")
    with pytest.raises(RunError, match=r"'\\x1b\[31m\\t\\u202e' are not known"):
        load_config(path.parent)
