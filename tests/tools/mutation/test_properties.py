"""What is promised beyond right gradients holds."""

from inspect import Parameter, signature

from compyute_transformer.dispatch import Dispatched, use_kernels
from compyute_transformer.ops.multi_head import MultiHeadOptions
from compyute_transformer.verify.registry import REGISTRY
from mutation.suite import all_properties


def test_every_property_holds() -> None:
    with use_kernels("reference"):
        checks = [check for _, call in all_properties() for check in call()]
    assert len(checks) >= 500
    assert [str(check) for check in checks if not check.passed] == []


def test_every_argument_that_may_be_left_out_has_its_documented_value() -> None:
    for op in REGISTRY.values():
        function = op.forward.reference if isinstance(op.forward, Dispatched) else op.forward
        given = signature(function).parameters
        optional = {name: each.default for name, each in given.items() if each.default is not Parameter.empty}
        if "options" in given:  # of multi-head attention, whose record states each of them by its own name
            optional |= MultiHeadOptions._field_defaults
        assert optional == op.defaults, f"{op.name}: the defaults of its record differ"
