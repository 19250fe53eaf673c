"""The independent checker finds every figure of a certificate again, and rejects one that was tampered with."""

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from verify_helpers import annotations_off, damage

from certificate.write import certificate, prepare, write_certificate
from compyute_transformer.verify import registry
from compyute_transformer.verify.plan import carry_out
from compyute_transformer.verify.subject import tasks

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_certificate.py"


@pytest.fixture(scope="module")
def certified() -> dict[str, Any]:
    """Of all ops, on their smaller cases, written and read."""
    with annotations_off():
        every = prepare(0).items()
        examples = {name: [e for e in several if "large" not in e.case.name][:9] for name, several in every}
        results = carry_out(tasks(example for several in examples.values() for example in several)).results
    values: dict[str, Any] = json.loads(json.dumps(certificate(results, examples, 0)))
    return values


def check(values: dict[str, Any], folder: Path) -> tuple[int, list[str]]:
    path = folder / "certificate.json"
    write_certificate(path, values)
    done = subprocess.run([sys.executable, str(SCRIPT), str(path)], capture_output=True, text=True, encoding="utf-8")
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_every_figure_is_found_again(certified: dict[str, Any], tmp_path: Path) -> None:
    code, lines = check(certified, tmp_path)
    assert code == 0, lines
    assert lines[-1] == "Every figure was found again."
    assert len(lines) == len(certified["ops"]) + 1
    assert all(line.endswith(" ok") for line in lines[:-1])


def test_it_is_short_and_imports_nothing_else_of_ours() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    modules |= {
        f"{node.module}.{alias.name}" for node in imports if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {name for name in modules if name.startswith("compyute")} == {
        "compyute_transformer.ops",
        "compyute_transformer.ops.attention.RandomKey",
        "compyute_transformer.ops.attention.Mask",
    }
    assert "verify" not in text.split('"""')[2]


def row_of(values: dict[str, Any], op: str, method: str) -> dict[str, Any]:
    return next(r for r in values["rows"] if r["op"] == op and r["method"] == method and r["argument"] != "y")


Change = Callable[[dict[str, Any]], Any]


def change(op: str, method: str, **values: float | Callable[[float], float]) -> Change:
    """Other numbers in a row."""

    def apply(certificate: dict[str, Any]) -> None:
        row = row_of(certificate, op, method)
        row.update({key: value(row[key]) if callable(value) else value for key, value in values.items()})

    return apply


# One change for each op, so that one run of the script looks at them all.
TAMPERED: dict[str, Change] = {
    "linear": change("linear", "differences", error=lambda e: e * 3),
    "layer_norm": change("layer_norm", "torch", error=0.0),
    "gelu": change("gelu", "complex step", ours=lambda x: x * 1.001, theirs=lambda x: x * 1.001),
    "softmax": lambda c: c["rows"].remove(row_of(c, "softmax", "kernel")),
    "relu": lambda c: c["ops"]["relu"]["backward"].update(sha256="0" * 64),
    "dropout": change("dropout", "linearity", bound=1e-3),
    "embedding": change("embedding", "adjoint", scale=lambda s: s * 10),
    "attention": change("attention", "differences", shape=lambda s: s[::-1]),
    "learned_position": lambda c: c["ops"]["learned_position"]["cases"]["from_0"]["inputs"]["x"].update(std=3.0),
    "cross_entropy": lambda c: c["rows"].append(dict(row_of(c, "cross_entropy", "torch"))),
    "sinusoidal_position": lambda c: c["ops"].pop("sinusoidal_position"),
    "fused_attention": lambda c: (
        [c["ops"]["fused_attention"]["cases"]["causal"].update(checks={})]
        and c.update(rows=[r for r in c["rows"] if (r["op"], r["case"]) != ("fused_attention", "causal")])
    ),
    "random.py": lambda c: c["files"].update({"random.py": "0" * 64}),
    "ops/norm.py": lambda c: c["files"].pop("ops/norm.py"),
}


def test_whatever_is_tampered_with_is_rejected_by_name(certified: dict[str, Any], tmp_path: Path) -> None:
    values = json.loads(json.dumps(certified))
    for apply in TAMPERED.values():
        apply(values)
    code, lines = check(values, tmp_path)
    assert code == 1
    assert {line.split()[1] for line in lines if line.startswith("FAULT ")} == set(TAMPERED)
    assert {line.split()[0] for line in lines if line.endswith(" ok")} == set(certified["ops"]) - set(TAMPERED)


def test_one_change_alone_is_enough(certified: dict[str, Any], tmp_path: Path) -> None:
    values = json.loads(json.dumps(certified))
    TAMPERED["linear"](values)
    assert check(values, tmp_path)[0] == 1


@pytest.mark.parametrize(
    ("op", "argument"), [("linear", "weight"), ("softmax", "x"), ("attention", "k"), ("cross_entropy", "logits")]
)
def test_figures_of_a_backward_that_has_changed_since_are_not_found_again(
    op: str, argument: str, certified: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_from_file_location("check_certificate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    damage(monkeypatch, op, argument, lambda g: 1.0001 * g)
    functions = tuple(getattr(registry.REGISTRY[op], side) for side in ("forward", "backward"))
    rows = [row for row in certified["rows"] if row["op"] == op]
    faults = list(script.check_op(op, certified["ops"][op], rows, functions))
    assert any(f"d{argument}" in fault and "differ" in fault for fault in faults)
    assert any(f"the source of {op}_backward" in fault for fault in faults)
