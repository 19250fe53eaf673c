import pytest

from compyute_transformer import GPT
from compyute_transformer.models.presets import DEFAULT_PRESET, PRESETS
from compyute_transformer.training import Settings


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_resolves(preset: str) -> None:
    assert set(PRESETS[preset]) == {"data", "model", "training"}
    Settings.resolve(preset)


def test_the_default_is_one_of_them() -> None:
    assert DEFAULT_PRESET in PRESETS


def test_cpu_is_nanogpts() -> None:
    settings = Settings.resolve("cpu")
    # 65 characters of tinyshakespeare; nanoGPT prints 0.80M parameters, which leaves out the 64 · 128 of positions
    model = GPT(settings.model.config(vocab_size=65))
    assert model.num_parameters - 64 * 128 == 795_904
    training = settings.training
    assert (training.steps, training.batch_size, settings.model.context_length) == (2000, 12, 64)
    schedule = training.schedule()
    assert schedule(0) == pytest.approx(2e-3 / 101)
    assert schedule(100) == 2e-3
    assert schedule(2000) == 2e-4


def test_seed_is_the_seeds() -> None:
    settings = Settings.resolve("seed")
    model, training = settings.model, settings.training
    assert (model.num_layers, model.num_heads, model.embed_dim, model.context_length) == (6, 6, 384, 256)
    assert (model.dropout, model.bias, model.activation) == (0.5, True, "gelu_tanh")
    assert (training.steps, training.batch_size, training.eval_every, training.checkpoint_every) == (2500, 64, 250, 500)
    assert {training.schedule()(step) for step in (0, 1, 1000, 2499)} == {3e-4}
    assert training.clip is None
