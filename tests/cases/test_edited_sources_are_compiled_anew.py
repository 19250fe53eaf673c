"""An edit of a helper that kernels of other files call takes effect at the next start, though kernels are cached."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import compyute_transformer

CODE = """
import numpy as np
from compyute_transformer.ops import softmax
print(*(f"{p:.4f}" for p in softmax(np.array([[0, 1]], np.float32))[0]))
"""
NEW = """

@compile_part
def exp(x):
    return ONE
"""


def test_a_kernel_follows_an_edit_of_another_file(tmp_path: Path) -> None:
    package = Path(compyute_transformer.__file__).parent
    copy = tmp_path / "compyute_transformer"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def answer() -> str:
        command = [sys.executable, "-c", CODE]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    assert answer() == "0.2689 0.7311"
    helpers = copy / "cpu" / "_vector.py"
    helpers.write_text(helpers.read_text(encoding="utf-8") + NEW, encoding="utf-8")
    assert answer() == "0.5000 0.5000"
