"""Predictions, lenses and checks of a page, against plain NumPy and against what a step really changes."""

from typing import Any

import numpy as np
import pytest
from explain_helpers import CONFIGURATIONS, small

from compyute_transformer import use_kernels
from compyute_transformer.explain.analyses import attention_of, lens_of, norms_of, predictions_of, pushes_of
from compyute_transformer.explain.checks import check_ops, check_parameters
from compyute_transformer.explain.nodes import flags_of, nodes_of
from compyute_transformer.explain.trace import Trace, trace
from compyute_transformer.models.registry import MODELS
from compyute_transformer.ops import norm


def traced(name: str = "gpt", variant: str = "plain") -> Trace:
    record = MODELS[name]
    model, inputs, targets = small(record, record.small_configs()[variant])
    return trace(model, *inputs, targets=targets)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


@pytest.mark.parametrize(("record", "config"), CONFIGURATIONS)
def test_predictions_are_the_softmax_of_the_logits_and_the_last_depth_of_the_lens(record: Any, config: Any) -> None:
    model, inputs, targets = small(record, config)
    found = trace(model, *inputs, targets=targets)
    predictions, lens = predictions_of(found), lens_of(found)
    rows = softmax(np.atleast_2d(found.logits[0]).astype(np.float64))
    assert len(predictions) == len(rows)
    for row, prediction, target in zip(rows, predictions, np.atleast_1d(found.targets[0]), strict=True):
        order = np.argsort(-row, kind="stable")
        assert [i for i, _ in prediction["top"]] == order[: len(prediction["top"])].tolist()
        np.testing.assert_allclose([p for _, p in prediction["top"]], row[order[: len(prediction["top"])]], rtol=1e-6)
        if target < 0:
            assert prediction["target"] is None
        else:
            assert prediction["target"][0] == target
            np.testing.assert_allclose(prediction["target"][1], row[target], rtol=1e-6)
            assert prediction["target"][2] == order.tolist().index(target) + 1
    assert lens is not None
    depths = lens["depths"]
    assert depths[0]["path"].startswith("before ")
    for cell, prediction in zip(depths[-1]["cells"], predictions, strict=True):
        assert cell["top"][0][0] == prediction["top"][0][0]
        np.testing.assert_allclose(cell["top"][0][1], prediction["top"][0][1], rtol=1e-4)


@pytest.mark.parametrize(("record", "config"), CONFIGURATIONS)
def test_gradients_of_ops_and_parameters_agree_with_differences(record: Any, config: Any) -> None:
    model, inputs, targets = small(record, config)
    found = trace(model, *inputs, targets=targets)
    nodes = nodes_of(found)
    check_ops(found, nodes)
    checks = [check for node in nodes for check in node.checks]
    assert len(checks) > 20
    assert max(check["error"] for check in checks) <= 1e-7
    assert any(check["name"] == "dlogits" for check in checks)
    parameters = check_parameters(found)
    assert len(parameters) == min(16, len(found.gradients))
    for name, check in parameters.items():
        assert check["error"] <= 1e-6, name
        assert found.gradients[name][tuple(check["place"])] == check["recorded"]


def test_a_wrong_gradient_is_seen_by_the_checks() -> None:
    right = norm.layer_norm_backward.reference

    def without_the_mean(dy: Any, saved: Any, *needs: bool) -> Any:
        dx, dweight, dbias = right(dy, saved, *needs)
        return dx + 0.01 * dy.mean(-1, keepdims=True), dweight, dbias

    norm.layer_norm_backward.reference = without_the_mean  # type: ignore[assignment]
    try:
        found = traced()
        nodes = nodes_of(found)
        check_ops(found, nodes)
        parameters = check_parameters(found)
    finally:
        norm.layer_norm_backward.reference = right  # type: ignore[assignment]
    wrong = {
        c["name"]
        for node in nodes
        for c in node.checks
        if node.op and node.op.name == "layer_norm" and c["error"] > 1e-4
    }
    assert wrong == {"dx"}
    assert max(check["error"] for check in parameters.values()) > 1e-4


def test_a_push_is_what_a_step_down_the_gradient_of_one_weight_does() -> None:
    found = traced()
    pushes = {push["parameter"]: push["positions"] for push in pushes_of(found)}
    assert set(pushes) == {
        f"blocks.{i}.{name}" for i in (0, 1) for name in ("attention.out_weight", "feed_forward.down.weight")
    }
    name = "blocks.1.feed_forward.down.weight"
    call = next(op for op in found.ops if op.parameters.get("weight") == name and op.phase == "forward")
    model, ids = found.model, found.inputs["ids"]
    bias = model.blocks[1].feed_forward.down.bias.data
    before = call.inputs["x"][0] @ call.inputs["weight"].T + bias
    after = call.inputs["x"][0] @ (call.inputs["weight"] - 0.1 * found.gradients[name]).T + bias
    scores = ((after - before) / 0.1 * model.norm.weight.data) @ model.head.weight.data.T
    assert len(pushes[name]) == ids.shape[1]
    for row, position in zip(scores, pushes[name], strict=True):
        centered = row - row.mean()
        order = np.argsort(centered)
        assert position["towards"][0][0] == order[-1]
        assert position["away"][0][0] == order[0]
        np.testing.assert_allclose(position["towards"][0][1], centered[order[-1]], rtol=1e-2, atol=1e-5)


def test_norms_follow_the_model_from_the_embedding_to_the_head() -> None:
    found = traced()
    norms = norms_of(found)
    assert [stage["path"] for stage in norms] == [
        *("token_embedding", "position", "dropout", "blocks.0", "blocks.1", "norm", "head"),
    ]
    block = next(stage for stage in norms if stage["path"] == "blocks.0")
    gradients = [g for name, g in found.gradients.items() if name.startswith("blocks.0.")]
    np.testing.assert_allclose(block["parameters"], np.sqrt(sum((g.astype(float) ** 2).sum() for g in gradients)))


def test_attention_of_a_page_is_that_of_the_model() -> None:
    found = traced("transformer")
    weights = dict(attention_of(found))
    assert {"encoder.0.attention", "decoder.1.attention", "decoder.1.cross_attention"} <= weights.keys()
    with use_kernels("reference"):
        output = found.model(*found.inputs.values(), return_attention=True)
    for mine, other in zip(weights.values(), output.attentions, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_numbers_that_stop_learning_are_flagged() -> None:
    found = traced()
    nodes = {node.id: node for node in nodes_of(found)}
    gelu, softmax_ = nodes["blocks.0.feed_forward.gelu"], nodes["blocks.0.attention.softmax"]
    assert not any("dead" in flag for flag in gelu.flags)
    gelu.value("y").array = gelu.array("y").copy()  # type: ignore[union-attr]
    gelu.array("y")[..., :3] = 0  # type: ignore[index]
    assert any(flag.startswith("3 of ") and "dead" in flag for flag in flags_of(gelu))
    sure = np.zeros_like(softmax_.array("y"))
    sure[..., 0], sure[..., 1] = 1 - 1e-4, 1e-4
    softmax_.value("y").array = sure  # type: ignore[union-attr]
    assert any("saturated" in flag for flag in flags_of(softmax_))
    broken = nodes["blocks.1"]
    broken.value("y").array = np.full((2, 7, 12), np.nan)  # type: ignore[union-attr]
    assert any("168 NaN" in flag for flag in flags_of(broken))
