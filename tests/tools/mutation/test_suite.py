"""The checks a mutant must survive are those of the registries: what is registered is verified here too."""

from mutation_helpers import kinds_of

from compyute_transformer import models
from compyute_transformer.verify.modules import ModuleSubject
from compyute_transformer.verify.registry import MODULES, REGISTRY
from mutation.suite import make_suite


def test_every_op_module_and_model_has_its_checks() -> None:
    checks = {(check.kind, check.name) for check in make_suite()}
    for op in REGISTRY.values():
        for case in op.cases:
            for kind in ("differences", "slopes", "torch", "linearity"):
                assert (kind, f"{op.name} [{case.name}] float64") in checks
    for case in MODULES:
        label = str(ModuleSubject(case).label)
        assert {("slopes", label), ("torch", label)} <= checks
    for kind in kinds_of(models):
        methods = {method for method, name in checks if name.startswith(f"models.{kind.__name__} [")}
        assert methods >= {"differences", "adjoint", "torch"}, f"{kind.__name__} is not verified: {methods}"


def test_the_checks_of_models_hold() -> None:
    checks = [check for check in make_suite() if check.name.startswith("models.")]
    assert [f"{check.name}: {fault.text}" for check in checks if (fault := check.fault()) is not None] == []
