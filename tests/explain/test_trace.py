"""A trace holds what a model computed: every value and gradient, of every op and module, under its name."""

from typing import Any

import numpy as np
import pytest

from compyute_transformer.dispatch import intercept
from compyute_transformer.errors import InputError
from compyute_transformer.explain.checks import check_ops
from compyute_transformer.explain.nodes import nodes_of
from compyute_transformer.explain.trace import LOSS, Trace, next_tokens, trace
from compyute_transformer.models.gpt import GPT, GPTConfig
from compyute_transformer.models.registry import MODELS
from compyute_transformer.nn import CrossEntropyLoss
from compyute_transformer.ops.linear import linear_forward

CONFIGURATIONS = [
    pytest.param(record, config, id=f"{record.name}-{name}")
    for record in MODELS.values()
    for name, config in record.small_configs().items()
]


def traced(record: Any, config: Any, kernels: Any = "reference", **options: Any) -> tuple[Any, Trace]:
    model = record.model(config, 1)
    rng = np.random.default_rng(2)
    for parameter in model.parameters():  # biases and norms too, so that no gradient is that of a zero or a one
        parameter.data[...] = rng.normal(size=parameter.shape) * 0.3
    inputs, targets = record.batch(config, rng, 2)
    return model, trace(model, *inputs, targets=targets, kernels=kernels, **options)


@pytest.mark.parametrize("kernels", ["reference", "auto"])
@pytest.mark.parametrize(("record", "config"), CONFIGURATIONS)
def test_a_trace_holds_the_loss_and_every_gradient_of_the_model(record: Any, config: Any, kernels: str) -> None:
    model, found = traced(record, config, kernels)
    assert all(parameter.grad is None for parameter in model.parameters())  # a copy ran
    plain = record.model(type(config)(**(vars(config) | {"dropout": 0.0})), 1)
    plain.load_state_dict(model.state_dict())
    from compyute_transformer import use_kernels

    with use_kernels(kernels):  # type: ignore[arg-type]
        criterion = CrossEntropyLoss()
        logits = plain(*found.inputs.values())
        assert float(criterion(logits, found.targets)) == found.loss
        plain.backward(criterion.backward())
    np.testing.assert_array_equal(found.logits, logits)
    for name, parameter in plain.named_parameters():
        np.testing.assert_array_equal(found.gradients[name], parameter.grad, err_msg=name)
        np.testing.assert_array_equal(found.parameters[name], parameter.data, err_msg=name)


@pytest.mark.parametrize(("record", "config"), CONFIGURATIONS)
def test_every_forward_has_its_backward_and_values_flow_from_op_to_op(record: Any, config: Any) -> None:
    _, found = traced(record, config)
    by_start = {call.start: call for call in (*found.ops, *found.modules)}
    modules = {path for path, _ in found.model.named_modules()}
    kinds = {(call.path, call.name, call.phase) for call in found.ops}
    for call in found.ops:
        if call.partner is None:  # its other half is a plain function, or it is computed again within a backward
            if call.phase == "forward" and call.within is not None and by_start[call.within].phase == "backward":
                continue
            assert (call.path, call.name, "forward" if call.phase == "backward" else "backward") not in kinds
            assert call.phase == "backward" or call.within is not None
            continue
        partner: Any = by_start[call.partner]
        assert (partner.path, partner.name, partner.partner) == (call.path, call.name, call.start)
        assert call.path in modules | {LOSS}
        if call.phase == "backward":
            for name, gradient in call.outputs.items():
                assert gradient.shape == partner.inputs[name[1:]].shape, (call.path, call.name, name)
    forwards = [call for call in found.modules if call.phase == "forward"]
    assert all(call.partner is not None for call in forwards)
    assert len(forwards) * 2 == len(found.modules)


def test_the_ops_of_an_attention_are_recorded_down_to_its_softmax() -> None:
    record = MODELS["gpt"]
    _, found = traced(record, record.small_configs()["plain"])
    attention = found.op("blocks.1.attention", "attention")
    (softmax,) = [call for call in found.ops if call.within == attention.start]
    assert softmax.name == "softmax"
    np.testing.assert_array_equal(softmax.outputs["y"], attention.saved["weights"])
    T = softmax.outputs["y"].shape[-1]
    hidden = np.triu(np.ones((T, T), bool), 1)
    assert (softmax.outputs["y"][..., hidden] == 0).all()
    assert (softmax.inputs["x"][..., hidden] == -np.inf).all()
    backward = found.op("blocks.1.attention", "attention", "backward")
    (inner,) = [call for call in found.ops if call.within == backward.start]
    y, dy = inner.inputs["dy"] * 0 + softmax.outputs["y"], inner.inputs["dy"]
    # recorded before the attention scaled it in place
    np.testing.assert_allclose(inner.outputs["dx"], y * (dy - (dy * y).sum(-1, keepdims=True)), rtol=1e-5, atol=1e-9)
    projections = [c for c in found.ops if c.path == "blocks.1.attention" and c.name == "linear"]
    assert [c.parameters.get("weight") for c in projections if c.phase == "forward"] == [
        "blocks.1.attention.in_weight",
        "blocks.1.attention.out_weight",
    ]


def test_kernels_are_recorded_as_such() -> None:
    record = MODELS["gpt"]
    config = record.small_configs()["plain"]
    _, reference = traced(record, config)
    _, kernels = traced(record, config, "auto")
    assert {call.ran for call in reference.ops} == {"reference"}
    assert "kernel" in {call.ran for call in kernels.ops}
    np.testing.assert_allclose(kernels.loss, reference.loss, rtol=1e-5)


def test_a_language_model_needs_no_targets_and_others_do() -> None:
    model = GPT(GPTConfig(vocab_size=5, context_length=6, embed_dim=4, num_heads=2, num_layers=1), 0)
    ids = np.array([[1, 4, 2, 0]])
    found = trace(model, ids)
    np.testing.assert_array_equal(found.targets, [[4, 2, 0, -100]])
    np.testing.assert_array_equal(next_tokens(ids), found.targets)
    with pytest.raises(InputError, match="at least 2"):
        trace(model, ids[:, :1])
    vit = MODELS["vit"]
    config = vit.small_configs()["plain"]
    inputs, _ = vit.batch(config, np.random.default_rng(0), 1)
    with pytest.raises(InputError, match="needs targets"):
        trace(vit.model(config, 0), *inputs)


def test_dropout_is_left_out_unless_asked_for() -> None:
    record = MODELS["gpt"]
    config = record.small_configs()["dropout"]
    model, without = traced(record, config)
    assert "dropout" not in {call.name for call in without.ops}
    before = model.generator.offset
    _, dropped = traced(record, config, dropout=True)
    assert "dropout" in {call.name for call in dropped.ops}
    assert model.generator.offset == before


def test_an_interceptor_sees_the_calls_of_its_thread_within_its_block_only() -> None:
    seen = []

    def listen(op: Any, args: Any, kwargs: Any) -> Any:
        seen.append(op.__name__)
        return op.run(*args, **kwargs)

    x, weight = np.ones((2, 3)), np.ones((4, 3))
    with intercept(listen):
        inside = linear_forward(x, weight)[0]
    outside = linear_forward(x, weight)[0]
    assert seen == ["linear_forward"]
    np.testing.assert_array_equal(inside, outside)


def test_a_frozen_parameter_has_no_gradient_and_the_others_keep_theirs() -> None:
    record = MODELS["gpt"]
    config = record.small_configs()["plain"]
    model, free = traced(record, config)
    model.blocks[0].attention_norm.weight.requires_grad = False
    frozen = trace(model, *free.inputs.values(), targets=free.targets)
    assert "blocks.0.attention_norm.weight" not in frozen.gradients
    outputs = frozen.op("blocks.0.attention_norm", "layer_norm", "backward").outputs
    assert set(outputs) == {"dx", "dbias"}
    np.testing.assert_array_equal(outputs["dbias"], free.gradients["blocks.0.attention_norm.bias"])
    nodes = nodes_of(frozen)
    check_ops(frozen, nodes)
    assert max(check["error"] for node in nodes for check in node.checks) <= 1e-7


def test_a_forward_that_a_backward_computes_again_is_one_row_with_its_gradient() -> None:
    record = MODELS["llama"]
    _, found = traced(record, record.small_configs()["plain"])
    nodes = nodes_of(found)
    (silu,) = [node for node in nodes if node.path == "blocks.0.feed_forward" and node.kind == "silu"]
    assert silu.id == "blocks.0.feed_forward.silu"
    assert silu.parent is not None
    gated = found.op("blocks.0.feed_forward", "gated_activation")
    np.testing.assert_array_equal(silu.array("x"), gated.inputs["gate"])
    assert silu.array("dy") is not None
