"""The step: both sides take the same step, one that differs is never timed, and what is missing is said."""

import numpy as np
import pytest

from compyute_transformer.bench import step
from compyute_transformer.bench.step import NO_COMPILER, bench_step, check_steps, run_alone
from compyute_transformer.bench.torch_gpt import TorchGPT
from compyute_transformer.bench.torch_step import TorchStep
from compyute_transformer.bench.torch_vaswani import TorchTransformer
from compyute_transformer.bench.torch_vit import TorchViT
from compyute_transformer.bench.workload import MODEL_CASES, SIZES, STEP_SIZES, OurStep, Workload, workload
from compyute_transformer.environment.conditions import NO_TORCH
from compyute_transformer.errors import ConfigError, ParityError
from compyute_transformer.models.gpt import GPT, GPTConfig
from compyute_transformer.models.transformer import TransformerConfig
from compyute_transformer.precision import precision

TINY = {"context_length": 8, "embed_dim": 16, "num_heads": 2, "num_layers": 1, "batch_size": 3}


def tiny(**changes: object) -> Workload:
    return workload("seed", {**TINY, **changes})


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
def test_both_sides_take_the_same_steps(bias: bool, activation: str) -> None:
    check_steps(tiny(bias=bias, activation=activation, num_layers=2, clip=0.5), "eager")


def test_autocast_keeps_its_wider_limit() -> None:
    check_steps(tiny(), "autocast")
    assert all(
        wide > narrow for wide, narrow in zip(step.TOLERANCES["autocast"], step.TOLERANCES["eager"], strict=True)
    )


def test_our_step_in_bfloat16_is_timed_in_bfloat16_and_is_held_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Seen(OurStep):
        def __call__(self) -> float:
            seen.append(precision())
            return super().__call__()

    monkeypatch.setattr(step, "OurStep", Seen)
    check_steps(tiny(), "bfloat16")
    assert seen == ["bfloat16", "float32"] * 2
    monkeypatch.setitem(step.TOLERANCES, "bfloat16", step.EXACT)
    with pytest.raises(ParityError, match="compyute bfloat16 has at step 1 the loss"):
        check_steps(tiny(), "bfloat16")
    seen.clear()
    run_alone("seed", TINY, None, "compyute", "bfloat16")
    assert set(seen) == {"bfloat16"}


@pytest.mark.parametrize("change", ["activation", "clip", "weight"])
def test_a_kernel_that_computes_something_else_is_refused(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another activation, another clip (seen in the second step), one weight that is off."""

    class Wrong(TorchStep):
        def __init__(self, work: Workload, state: dict[str, np.ndarray], mode: str) -> None:
            if change == "activation":
                work = tiny(activation="gelu", clip=0.5)
            elif change == "weight":
                state = {**state, "norm.weight": state["norm.weight"] * 1.01}
            super().__init__(work.without_dropout(), state, mode)
            if change == "clip":
                self.optimizer.param_groups[0]["lr"] *= 2

    monkeypatch.setattr("compyute_transformer.bench.torch_step.TorchStep", Wrong)
    with pytest.raises(ParityError, match="Nothing was timed"):
        bench_step("seed", {**TINY, "clip": 0.5, "learning_rate": 0.01}, modes=["eager"], rounds=1, memory=False)


def test_the_report_has_everyone_who_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    report = bench_step("seed", TINY, modes=["eager", "autocast"], reference=True, rounds=2, memory=False)
    names = ["compyute float32", "compyute bfloat16", "compyute reference", "torch eager", "torch autocast"]
    assert [r.name for r in report.results if r.unit == "ms"] == names
    assert [r.name for r in report.results if r.unit == "× compyute float32"] == names[1:]
    rates = {r.name: r.value for r in report.results if r.unit == "tokens/s"}
    for result in report.results:
        assert result.value > 0
        assert result.spread is not None
        assert result.spread.runs == 2
        if result.unit == "ms":
            assert rates[result.name] == pytest.approx(24 / result.value * 1e3, rel=0.5)
    assert report.notes == []


def test_without_torch_ours_runs_alone_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "has_torch", lambda: False)
    report = bench_step("seed", TINY, rounds=1, memory=False)
    assert report.notes == [NO_TORCH]
    assert {r.name for r in report.results} == {"compyute float32", "compyute bfloat16"}


def test_without_a_compiler_the_compiled_one_is_left_out_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "which", lambda name: None)
    report = bench_step("seed", TINY, modes=["compiled"], rounds=1, memory=False)
    assert report.notes == [NO_COMPILER]
    assert {r.name for r in report.results} == {"compyute float32", "compyute bfloat16"}


def test_peak_memory_is_each_candidates_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def peak(target: str, **given: object) -> int:
        asked.append((target, given))
        return 5_000_000

    monkeypatch.setattr(step, "peak_memory", peak)
    report = bench_step("seed", TINY, modes=["eager"], rounds=1)
    assert [(r.name, r.value) for r in report.results if r.unit == "MB"] == [
        ("compyute float32", 5.0),
        ("compyute bfloat16", 5.0),
        ("torch eager", 5.0),
    ]
    for target, given in asked:
        assert target == "step:run_alone"
        run_alone(**given)  # type: ignore[arg-type]  # as the process will


@pytest.mark.parametrize("name", STEP_SIZES)
def test_every_size_races_a_kernel_of_its_model(name: str) -> None:
    work = workload(name)
    assert type(work.config) in MODEL_CASES
    assert work.tokens % work.training.batch_size == 0
    assert f"B {work.training.batch_size}, " in work.shape


@pytest.mark.parametrize("name", SIZES)
def test_every_size_is_a_model_that_torch_can_race(name: str) -> None:
    work = workload(name)
    assert work.config.tie_word_embeddings
    assert work.config.window is None
    assert str(work.training.batch_size) in work.shape


def test_gpt2_has_its_size() -> None:
    work = workload("gpt2")
    assert (work.tokens, work.config.vocab_size, work.config.embed_dim, work.config.dropout) == (1024, 50257, 768, 0.0)


def test_a_size_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a preset must be one of nano, .* got 'huge'"):
        workload("huge")


def test_a_model_that_the_kernel_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="no window"):
        TorchGPT(GPTConfig(5, 8, 16, 2, 1, window=3))


@pytest.mark.parametrize(
    "place", ["dropout", "blocks.0.attention", "blocks.0.attention_dropout", "blocks.0.feed_forward_dropout"]
)
def test_the_kernel_drops_where_ours_does(place: str) -> None:
    """On the embedding, on what goes to the stream, and on attention's weights: each alone makes a difference."""
    work = tiny(dropout=0.5)
    theirs = TorchStep(work, GPT(work.config).state_dict())
    (x,), model = theirs.batches[0][0], theirs.model.eval()
    assert model(x).equal(model(x))
    model.get_submodule(place).train()
    assert not model(x).equal(model(x))


def test_both_sides_see_the_same_batches_in_the_same_order() -> None:
    ours, theirs = OurStep(tiny()), TorchStep(tiny(), GPT(tiny().config).state_dict())
    for ((x,), y), ((their_x,), their_y) in zip(ours.batches, theirs.batches, strict=True):
        assert np.array_equal(x, their_x)
        assert np.array_equal(y, their_y)
    for _ in range(2):
        ours()
        theirs()
    assert ours.index == theirs.index == 2


# --- the encoder-decoder ---------------------------------------------------------------------------------------------


def tiny_pairs(**changes: object) -> Workload:
    return workload("vaswani", {**TINY, **changes}, vocab_size=31)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_both_sides_take_the_same_steps_of_an_encoder_decoder(bias: bool, activation: str) -> None:
    work = tiny_pairs(bias=bias, activation=activation, num_layers=2, clip=0.5)
    assert work.training.label_smoothing > 0
    check_steps(work, "eager")


def test_an_encoder_decoder_whose_kernel_ignores_padding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TorchTransformer.forward
    monkeypatch.setattr(
        TorchTransformer,
        "forward",
        lambda self, source, target, lengths: right(self, source, target, lengths * 0 + 8),
    )
    with pytest.raises(ParityError, match="Nothing was timed"):
        check_steps(tiny_pairs(), "eager")


def test_the_report_of_an_encoder_decoder_counts_tokens_of_both_sides() -> None:
    report = bench_step("vaswani", TINY, 31, modes=["eager"], rounds=1, memory=False)
    assert {r.name for r in report.results} == {"compyute float32", "compyute bfloat16", "torch eager"}
    assert {r.unit for r in report.results} >= {"ms", "tokens/s"}
    assert tiny_pairs().tokens == 3 * (8 + 8)
    run_alone("vaswani", TINY, 31, "torch", "eager")


def test_padding_is_in_the_race() -> None:
    (source, target, lengths), targets = tiny_pairs(batch_size=50).batches()[0]
    assert source.shape == target.shape == targets.shape == (50, 8)
    assert (lengths.min(), lengths.max()) == (5, 8)
    assert ((targets == -100).sum(1) == 3).any()
    assert not (targets[:, :5] == -100).any()


def test_grouped_heads_are_no_race_of_an_encoder_decoder() -> None:
    with pytest.raises(ConfigError, match="supports num_kv_heads = num_heads, got num_kv_heads 1"):
        TorchTransformer(TransformerConfig(5, 8, 16, 2, 1, num_kv_heads=1))


@pytest.mark.parametrize(
    "place", ["dropout", "encoder.0.dropouts.feed_forward", "decoder.0.cross_attention", "decoder.0.attention"]
)
def test_the_kernel_of_an_encoder_decoder_drops_where_ours_does(place: str) -> None:
    work = tiny_pairs(dropout=0.5)
    theirs = TorchStep(work, OurStep(work).model.state_dict())
    inputs, model = theirs.batches[0][0], theirs.model.eval()
    assert model(*inputs).equal(model(*inputs))
    model.get_submodule(place).train()
    assert not model(*inputs).equal(model(*inputs))


# --- the vision transformer ------------------------------------------------------------------------------------------


SMALL_VIT = {"embed_dim": 16, "num_heads": 2, "num_layers": 2, "patch_size": 16, "batch_size": 3}


def tiny_images(**changes: object) -> Workload:
    return workload("vit", {**SMALL_VIT, **changes})


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
def test_both_sides_take_the_same_steps_of_a_vit(bias: bool, activation: str) -> None:
    work = tiny_images(bias=bias, activation=activation, clip=0.5)
    assert work.training.label_smoothing > 0
    check_steps(work, "eager")


def test_a_vit_whose_kernel_sees_images_mirrored_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TorchViT.forward
    monkeypatch.setattr(TorchViT, "forward", lambda self, images: right(self, images.flip(2)))
    with pytest.raises(ParityError, match="Nothing was timed"):
        check_steps(tiny_images(), "eager")


def test_the_report_of_a_vit_counts_images() -> None:
    report = bench_step("vit", SMALL_VIT, modes=["eager"], rounds=1, memory=False, bfloat16=False)
    assert {r.name for r in report.results} == {"compyute float32", "torch eager"}
    assert {r.unit for r in report.results} >= {"ms", "images/s"}
    assert tiny_images().tokens == 3
    assert "32 × 32 × 3 pixels, patches of 16" in tiny_images().shape
    run_alone("vit", SMALL_VIT, None, "torch", "eager")


@pytest.mark.parametrize("place", ["dropout", "blocks.0.attention", "blocks.0.attention_dropout"])
def test_the_kernel_of_a_vit_drops_where_ours_does(place: str) -> None:
    work = tiny_images(dropout=0.5)
    theirs = TorchStep(work, OurStep(work).model.state_dict())
    (images,), model = theirs.batches[0][0], theirs.model.eval()
    assert model(images).equal(model(images))
    model.get_submodule(place).train()
    assert not model(images).equal(model(images))
