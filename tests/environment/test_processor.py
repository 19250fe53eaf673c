"""The kind of a processor: one folder for all machines with the same design, whatever number is on it."""

import re

import pytest

from compyute_transformer.environment import processor
from compyute_transformer.environment.processor import architecture, kind_of, processor_kind


@pytest.mark.parametrize(
    ("name", "design", "kind"),
    [
        ("AMD EPYC", "zen 3", "amd-epyc-zen-3"),
        ("AMD EPYC 7763 64-Core Processor", "zen 3", "amd-epyc-zen-3"),
        ("AMD Ryzen 9 7950X 16-Core Processor", "zen 4", "amd-ryzen-zen-4"),
        ("Intel(R) Xeon(R) Platinum 8488C", "sapphire rapids", "intel-xeon-sapphire-rapids"),
        ("Intel(R) Xeon(R) Processor @ 2.70GHz", "granite rapids", "intel-xeon-granite-rapids"),
        ("Apple M2 Pro", "apple-m2", "apple-m2"),
        ("aarch64", "neoverse-v1", "neoverse-v1"),
        ("AMD EPYC 7763", None, "amd-epyc-7763"),
        ("", None, "unknown"),
    ],
)
def test_a_kind_has_no_number_of_a_model(name: str, design: str | None, kind: str) -> None:
    assert kind_of(name, design) == kind


@pytest.mark.parametrize(
    ("said", "design"),
    [("znver5", "zen 5"), ("sapphirerapids", "sapphire rapids"), ("icelake-server", "ice lake-server"),
     ("apple-m2", "apple-m2"), ("generic", None)],
)  # fmt: skip
def test_a_design_is_written_as_its_makers_do(monkeypatch: pytest.MonkeyPatch, said: str, design: str | None) -> None:
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_name", lambda: said)
    assert architecture() == design


def test_this_machine_has_a_kind() -> None:
    assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", processor_kind())
    assert processor.processor_kind() == processor_kind()
