"""The proofs a mutant must survive are those of the registries: what is registered is proven here too."""

from mutation_helpers import kinds_of

from compyute_transformer import models
from compyute_transformer.verify import modules
from compyute_transformer.verify.registry import REGISTRY
from mutation.suite import make_suite


def test_every_op_module_and_model_has_its_proofs() -> None:
    proofs = {(proof.kind, proof.name) for proof in make_suite()}
    for op in REGISTRY.values():
        for case in op.cases:
            for kind in ("differences", "slopes", "torch", "linearity"):
                assert (kind, f"{op.name} [{case.name}] float64") in proofs
    for example in modules.EXAMPLES:
        assert {("slopes", str(example.label)), ("torch", str(example.label))} <= proofs
    for kind in kinds_of(models):
        methods = {method for method, name in proofs if name == f"models.{kind.__name__}"}
        assert methods >= {"differences", "adjoint", "torch"}, f"{kind.__name__} is not proven: {methods}"


def test_the_proofs_of_models_hold() -> None:
    proofs = [proof for proof in make_suite() if proof.name.startswith("models.")]
    assert [f"{proof.name}: {fault.text}" for proof in proofs if (fault := proof.fault()) is not None] == []
