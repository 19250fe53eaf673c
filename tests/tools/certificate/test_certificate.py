"""The certificate: what it says, and that it is always the same. tests/test_check_certificate.py derives it again."""

import inspect
import json
import re
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from verify_helpers import annotations_off, damage

import compyute_transformer
from certificate.command import certify, main
from certificate.write import PRIVATE, certificate, prepare, write_certificate
from compyute_transformer.errors import ConfigError
from compyute_transformer.ops.norm import layer_norm_backward
from compyute_transformer.verify.ops import OpSubject
from compyute_transformer.verify.plan import carry_out, choose
from compyute_transformer.verify.registry import REGISTRY
from compyute_transformer.verify.result import Label, Measured
from compyute_transformer.verify.subject import tasks
from compyute_transformer.verify.tolerances import LIMITS

pytestmark = pytest.mark.usefixtures("validation_only")


def make_certificate(*names: str, seed: int = 0) -> dict[str, Any]:
    examples = prepare(seed, names)
    outcome = carry_out(tasks(example for several in examples.values() for example in several))
    return certificate(outcome.results, examples, seed)


@pytest.fixture(scope="module")
def certified() -> dict[str, Any]:
    with annotations_off():
        return make_certificate("layer_norm", "gelu")


def test_each_op_case_dtype_argument_and_method_has_one_row(certified: dict[str, Any]) -> None:
    keys = [tuple(row[k] for k in ("op", "case", "dtype", "argument", "method")) for row in certified["rows"]]
    assert len(set(keys)) == len(keys)
    for name in ("layer_norm", "gelu"):
        op = REGISTRY[name]
        for case in op.cases:
            given = [argument for argument in op.differentiable if case.arguments()[argument] is not None]
            for argument in given:
                for method in ("differences", "complex step", "adjoint", "linearity", "torch"):
                    assert (name, case.name, "float64", f"d{argument}", method) in keys
                for method in ("linearity", "torch", "kernel"):
                    assert (name, case.name, "float32", f"d{argument}", method) in keys
            assert (name, case.name, "float64", "y", "torch") in keys


def test_a_row_says_what_it_is_held_to_and_by_which_numbers(certified: dict[str, Any]) -> None:
    for row in certified["rows"]:
        assert 0.0 <= row["error"] <= row["bound"] <= LIMITS[row["method"]][row["dtype"]]
        assert row["error"] == pytest.approx(abs(row["ours"] - row["theirs"]) / row["scale"], rel=1e-9)
        assert len(row["at"]) == (
            0 if row["method"] in ("differences", "complex step", "adjoint") else len(row["shape"])
        )
    tighter = [row for row in certified["rows"] if row["bound"] < LIMITS[row["method"]][row["dtype"]]]
    assert len(tighter) > len(certified["rows"]) / 5  # the table alone is within 100 times of what is measured


def test_the_row_is_the_worst_of_several_comparisons(certified: dict[str, Any]) -> None:
    (row,) = [
        r
        for r in certified["rows"]
        if r["op"] == "gelu" and r["case"] == "tanh" and r["method"] == "kernel" and r["argument"] == "dx"
    ]
    example = next(e for e in prepare(0, ["gelu"])["gelu"] if e.case.name == "tanh")
    results = carry_out(choose(tasks([example]), (), ["kernel"])).results
    errors = [result.error for result in results if result.argument == "dx"]
    assert len(errors) == 3
    assert row["error"] == max(errors)


def test_sources_are_hashed(certified: dict[str, Any]) -> None:
    op = certified["ops"]["layer_norm"]
    source = inspect.getsource(layer_norm_backward.reference)
    assert re.match(r"@dispatched\(validate=\w+\)\ndef layer_norm_backward\(", source)
    assert op["backward"] == {"name": "layer_norm_backward", "sha256": sha256(source.encode()).hexdigest()}
    assert op["module"] == "compyute_transformer.ops.norm"
    package = Path(compyute_transformer.__file__).parent
    assert {"ops/norm.py", "ops/attention.py", "cpu/norm.py", "random.py", "dispatch.py"} <= set(certified["files"])
    for path, digest in certified["files"].items():
        assert digest == sha256((package / path).read_text(encoding="utf-8").encode()).hexdigest()


def test_versions_machine_and_inputs_are_told_but_nobodys_folders(certified: dict[str, Any]) -> None:
    assert certified["certificate"] == f"compyute-transformer {compyute_transformer.__version__}"
    versions = {package["name"]: package["version"] for package in certified["machine"]["packages"]}
    assert versions["torch"].startswith("2.13.0")
    assert versions["numpy"]
    assert not set(PRIVATE) & set(certified["machine"])
    assert certified["ops"]["gelu"]["cases"]["exact"]["inputs"]["approximate"] == "none"
    assert certified["ops"]["layer_norm"]["differentiable"] == ["x", "weight", "bias"]
    assert certified["seed"] == 0


def test_it_is_the_same_each_time_but_for_machine_and_date(certified: dict[str, Any], tmp_path: Path) -> None:
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, values in zip(paths, (certified, make_certificate("layer_norm", "gelu")), strict=True):
        write_certificate(path, {**values, "machine": None, "date": None})
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert make_certificate("layer_norm", seed=1)["rows"] != [
        row for row in certified["rows"] if row["op"] == "layer_norm"
    ]


def test_it_is_json_with_a_row_a_line(certified: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    write_certificate(path, certified)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(json.dumps(certified))
    lines = [line.rstrip(",") for line in text.splitlines() if line.startswith('{"op"')]
    assert [json.loads(line) for line in lines] == certified["rows"]


def test_what_failed_is_not_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, "gelu", "x", lambda g: -g)
    with pytest.raises(ConfigError, match=r"checks have passed, but failed: ops\.gelu"):
        make_certificate("gelu")


def test_what_could_not_be_run_is_not_certified() -> None:
    right = Label("ops.gelu", "tanh").result("adjoint", "float64", "dx", Measured(0.0), 1e-10)
    raised = Label("ops.gelu", "tanh").result("adjoint", "float64", "call", float("inf"), 1e-10, "TypeError: no")
    with pytest.raises(ConfigError, match="TypeError: no"):
        certificate([right, raised], prepare(0, ["gelu"]), 0)


def test_without_ops_there_is_nothing_to_certify() -> None:
    with pytest.raises(ConfigError, match="but none was chosen"):
        certificate([], {}, 0)


def test_a_folder_that_cannot_be_written_to_is_one_message(certified: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be written to"):
        write_certificate(tmp_path / "none" / "certificate.json", certified)


def test_a_certificate_is_written_only_where_all_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "certificate.json"
    assert certify(path, ["relu"])
    assert capsys.readouterr().out.endswith(f"Certificate: {path}\n")
    assert list(json.loads(path.read_text())["ops"]) == ["relu"]
    path.unlink()
    damage(monkeypatch, "relu", "x", lambda g: -g)
    assert not certify(path, ["relu"])
    assert capsys.readouterr().out.endswith("No certificate is written where a check has failed or was not run.\n")
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none/c.json"], "into a folder that exists"),
        (["c.json", "lineer"], "an op is one of embedding, .* got 'lineer'"),
    ],
)
def test_what_cannot_be_certified_is_one_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["certify", *arguments])
    assert main() == 1
    assert re.search(f"^Error: .*{message}", capsys.readouterr().err)


def test_shapes_are_those_of_results() -> None:
    example = OpSubject(REGISTRY["linear"], REGISTRY["linear"].cases[2], 0)
    assert example.shapes == {"y": (2, 3, 4), "dx": (2, 3, 5), "dweight": (4, 5), "dbias": (4,)}
