import pytest

from compyute_transformer import GPT
from compyute_transformer.data import EncodedPairs, load_pairs
from compyute_transformer.models.transformer import Transformer
from compyute_transformer.training import Settings
from compyute_transformer.training.settings.presets import DEFAULT_PRESET, PRESETS
from compyute_transformer.training.tasks.images import IMAGES
from compyute_transformer.training.tasks.translation import TRANSLATION


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_resolves(preset: str) -> None:
    assert set(PRESETS[preset]) == {"data", "model", "training"}
    Settings.resolve(preset)


def test_the_default_is_one_of_them() -> None:
    assert DEFAULT_PRESET in PRESETS


def test_nano_shows_a_sample_with_each_checkpoint() -> None:
    training = Settings.resolve(DEFAULT_PRESET).training
    assert (training.steps, training.sample_prompt) == (1600, "The ")
    assert training.eval_every == training.checkpoint_every == training.sample_every == 400


def test_cpu_is_nanogpts_but_for_its_learning_rate() -> None:
    settings = Settings.resolve("cpu")
    # 65 characters of tinyshakespeare; nanoGPT prints 0.80M parameters, which leaves out the 64 · 128 of positions
    model = GPT(settings.model.config({"vocab_size": 65}))
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


def test_dates_fit_their_preset() -> None:
    settings = Settings.resolve("dates")
    assert settings.data.kind == "translation"
    pairs = load_pairs()
    tokenizer = TRANSLATION.encoder(pairs, settings)
    length = settings.model.context_length
    EncodedPairs(pairs.held_out, tokenizer, length, "validation")  # whose characters are known, and which fit
    assert max(len(pair.source) for pair in pairs.pairs) + 1 < length
    assert Transformer(settings.model.config(TRANSLATION.shape(tokenizer))).num_parameters == 237_632


def test_translation_is_the_papers_recipe() -> None:
    settings = Settings.resolve("translation")
    training, width = settings.training, settings.model.embed_dim
    schedule = training.schedule()
    for n in (1, 500, 1000, 4000):  # equation 3
        expected = width**-0.5 * min(n**-0.5, n * training.warmup**-1.5)
        assert schedule(n - 1) == pytest.approx(expected, rel=0.02)
    assert (training.label_smoothing, settings.model.dropout, training.beta2) == (0.1, 0.1, 0.98)
    assert settings.model.activation == "relu"


def test_digits_are_cut_into_sixteen_patches() -> None:
    settings = Settings.resolve("digits")
    assert settings.data.kind == "images"
    digits = IMAGES.load(())
    config = settings.model.config(IMAGES.shape(IMAGES.encoder(digits, settings)))
    assert (config.image_height, config.image_width, config.channels, config.num_classes) == (8, 8, 1, 10)
    assert config.num_patches == 16
    assert len(digits.split(settings.data.validation_fraction)[1]) == 359


def test_images_of_any_size_are_cut_into_64_patches() -> None:
    settings = Settings.resolve("images")
    size = settings.data.image_size
    assert size is not None
    assert (size // settings.model.patch_size) ** 2 == 64
