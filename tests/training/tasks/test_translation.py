"""Translation as a task: what a step trains on, how it is evaluated, a run from pairs in a file to its answers."""

import re
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_helpers import Listener, digests

from compyute_transformer.data import IGNORE_INDEX, Pair, load_pairs, special_tokens, train_tokenizer
from compyute_transformer.errors import RunError, VocabularyError
from compyute_transformer.generation import translate
from compyute_transformer.models.transformer import Transformer
from compyute_transformer.ops.loss import cross_entropy
from compyute_transformer.training import Settings, evaluate_run, load_run, resume_run, start_run
from compyute_transformer.training.reporting.events import Evaluated, Started
from compyute_transformer.training.tasks import translation as module
from compyute_transformer.training.tasks.translation import TRANSLATION, TranslationTask, evaluate_translation

TINY: dict[str, object] = {
    "context_length": 16,
    "embed_dim": 16,
    "num_heads": 2,
    "num_layers": 1,
    "dropout": 0.1,
    "tokenizer": "characters",
    "validation_fraction": 0.2,
    "steps": 6,
    "batch_size": 4,
    "accumulation": 2,
    "warmup": 2,
    "eval_every": 3,
    "checkpoint_every": 2,
    "sample_every": 3,
    "log_every": 1,
}
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
PAIRS = [(f"{a} {b}", f"{b} {a}") for a in WORDS for b in WORDS]


def tiny(**changes: Any) -> Settings:
    return Settings.resolve("translation", None, TINY | changes)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "swap.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS), encoding="utf-8")
    return path


def task(dtype: Any = np.float32, **changes: Any) -> TranslationTask:
    settings = tiny(**changes)
    pairs = [Pair(*texts, "made", n) for n, texts in enumerate(PAIRS, 1)]
    tokenizer = train_tokenizer("characters", "".join(source for source, _ in PAIRS))
    model = Transformer(settings.model.config(TRANSLATION.shape(tokenizer)), settings.training.seed).to(dtype=dtype)
    return TranslationTask(model, tokenizer, pairs[:80], pairs[80:], settings.training)


# A step


def test_a_batch_is_the_inputs_of_the_model_and_labels_at_padding_ignored() -> None:
    made = task()
    parts = made.batch()
    assert len(parts) == 2
    assert sum(weight for _, weight in parts) == pytest.approx(1.0)
    for (source, target, source_lengths, target_lengths, labels), _ in parts:
        assert len(source) == len(target) == 4
        assert made.model(source, target, source_lengths, target_lengths).shape == (
            *labels.shape,
            made.model.config.vocab_size,
        )
        for row, length in zip(labels, target_lengths, strict=True):
            assert row[length - 1] == special_tokens(made.tokenizer).end
            assert (row[length:] == IGNORE_INDEX).all()
            assert (row[:length] != IGNORE_INDEX).all()


def test_accumulated_parts_are_the_whole_batch() -> None:
    whole, parts = (task(np.float64, accumulation=n, batch_size=8 // n, dropout=0.0) for n in (1, 4))
    for made in (whole, parts):
        made.loss = sum(made.loss_and_gradient(part, weight) for part, weight in made.batch())
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)
    assert np.allclose(parts.model.flat.grad, whole.model.flat.grad, rtol=1e-9, atol=1e-13)


def test_padding_changes_neither_loss_nor_gradient() -> None:
    made = task(np.float64, dropout=0.0)
    (source, target, source_lengths, target_lengths, labels), _ = made.batch()[0]
    made.loss_and_gradient((source, target, source_lengths, target_lengths, labels), 1.0)
    expected = made.model.flat.grad.copy()
    made.model.zero_grad()
    padding = special_tokens(made.tokenizer).padding
    wide = [np.pad(array, ((0, 0), (0, 3)), constant_values=padding) for array in (source, target)]
    ignored = np.pad(labels, ((0, 0), (0, 3)), constant_values=IGNORE_INDEX)
    made.loss_and_gradient((*wide, source_lengths, target_lengths, ignored), 1.0)
    assert np.allclose(made.model.flat.grad, expected, rtol=1e-9, atol=1e-13)
    assert expected.any()


def test_labels_are_smoothed_in_training_and_not_in_validation() -> None:
    smoothed, plain = (task(np.float64, label_smoothing=e, dropout=0.0) for e in (0.2, 0.0))
    part = plain.batch()[0][0]
    logits = plain.model(*part[:-1])
    assert smoothed.loss_and_gradient(part, 1.0) == pytest.approx(
        float(cross_entropy(logits, part[-1], label_smoothing=0.2))
    )
    assert plain.loss_and_gradient(part, 1.0) == pytest.approx(float(cross_entropy(logits, part[-1])))
    assert smoothed.validate() == plain.validate()


# Judging


def test_metrics_are_those_of_each_pair_alone() -> None:
    made = task(np.float64)
    pairs, model, tokenizer = made.validation, made.model, made.tokenizer
    special, nats, count = special_tokens(tokenizer), 0.0, 0
    model.eval()
    for pair in pairs:
        source, target = tokenizer.encode(pair.source).tolist(), tokenizer.encode(pair.target).tolist()
        logits = model(np.array([[*source, special.end]]), np.array([[special.begin, *target]]))
        nats += float(cross_entropy(logits, np.array([[*target, special.end]]))) * (len(target) + 1)
        count += len(target) + 1
    model.train()
    metrics = evaluate_translation(model, tokenizer, pairs, 3)
    assert metrics["loss"] == pytest.approx(nats / count, rel=1e-9)
    assert metrics["perplexity"] == pytest.approx(exp(nats / count), rel=1e-9)
    assert (metrics["tokens"], metrics["pairs"]) == (count, 20)
    assert metrics["exact_match"] == 0.0
    assert "bleu" in metrics
    assert made.validate() == pytest.approx({name: metrics[name] for name in ("loss", "exact_match", "tokens")})


def test_exact_answers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    made = task()
    right = {pair.source: pair.target for pair in made.validation[::2]}

    def answer(model: Any, tokenizer: Any, texts: list[str], **options: Any) -> list[Any]:
        return [type("Translation", (), {"text": right.get(text, "")}) for text in texts]

    monkeypatch.setattr(module, "translate", answer)
    assert made.validate()["exact_match"] == 0.5
    assert evaluate_translation(made.model, made.tokenizer, made.validation, 4)["exact_match"] == 0.5
    made.batch()  # no longer untrained
    monkeypatch.setattr(module, "TRANSLATED", 1)
    assert made.validate()["exact_match"] == 1.0


def test_bleu_is_left_out_where_sacrebleu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made = task()
    monkeypatch.setattr(module, "has_sacrebleu", lambda: False)
    assert "bleu" not in evaluate_translation(made.model, made.tokenizer, made.validation, 4)


def test_a_sample_shows_answers_beside_the_truth() -> None:
    made = task(sample_prompt="ten six")
    text = made.sample(3)
    assert text == made.sample(3)
    assert text != made.sample(4)
    blocks = text.strip().split("\n\n")
    assert len(blocks) == 4
    assert blocks[0].startswith("source       ten six\ntranslation  ")
    assert "target" not in blocks[0]
    targets = {pair.source: pair.target for pair in made.validation}
    for block in blocks[1:]:
        source, translation, target = (line[13:] for line in block.split("\n"))
        assert targets[source] == target
        assert translate(made.model, made.tokenizer, [source])[0].text == translation


def test_facts_and_the_size_of_a_step() -> None:
    made = task()
    assert made.facts() == {"training_pairs": 80, "validation_pairs": 20, "vocab_size": made.tokenizer.vocab_size + 3}
    mean = np.mean([len(pair.source) + len(pair.target) + 2 for pair in made.training])
    assert made.units_per_step == round(8 * mean)


def test_a_prompt_that_cannot_be_encoded_is_refused_before_training() -> None:
    with pytest.raises(VocabularyError):
        task(sample_prompt="ÄÖ")


# A run


def test_a_run_trains_resumes_to_the_same_bits_is_evaluated_and_answers(file: Path, tmp_path: Path) -> None:
    listener = Listener()
    result = start_run([str(file)], tiny(), tmp_path / "whole", listener)
    assert set(result.metrics) == {"exact_match", "tokens"}
    start_run([str(file)], tiny(steps=4), tmp_path / "cut")
    resume_run(tmp_path / "cut", steps=6)
    whole, cut = digests(tmp_path / "whole"), digests(tmp_path / "cut")
    assert [whole[name] for name in whole if name.endswith("6/model.safetensors")]
    assert {n: d for n, d in whole.items() if "6/model" in n} == {n: d for n, d in cut.items() if "6/model" in n}

    run = load_run(tmp_path / "whole", "last")
    assert run.config.shape == {"vocab_size": run.tokenizer.vocab_size + 3}
    assert translate(run.model, run.tokenizer, ["two ten"])[0].text is not None
    evaluated = evaluate_run(tmp_path / "whole", which="last").metrics
    assert evaluated["loss"] == pytest.approx(result.validation_loss)
    assert evaluated["pairs"] == 20
    other = tmp_path / "other.tsv"
    other.write_text("one two\ttwo one\n", encoding="utf-8")
    assert evaluate_run(tmp_path / "whole", [str(other)]).metrics["pairs"] == 1


@pytest.mark.parametrize("tokenizer", ["characters", "bpe"])
def test_the_encoder_knows_both_sides(file: Path, tokenizer: str, tmp_path: Path) -> None:
    size = {"vocab_size": 280} if tokenizer == "bpe" else {}
    data, settings = load_pairs(file), tiny(tokenizer=tokenizer, **size)
    encoder = TRANSLATION.encoder(data, settings)
    assert encoder.decode(encoder.encode("ten six")) == "ten six"
    encoder.save(tmp_path / TRANSLATION.file)
    assert TRANSLATION.shape(TRANSLATION.load_encoder(tmp_path / TRANSLATION.file)) == TRANSLATION.shape(encoder)
    if tokenizer == "characters":
        assert "\n" not in encoder.characters


def test_a_run_without_validation_pairs_says_so(file: Path, tmp_path: Path) -> None:
    result = start_run([str(file)], tiny(validation_fraction=0.0), tmp_path / "run")
    assert result.validation_loss is None
    with pytest.raises(RunError, match=r"has no validation split of swap.* compyute eval RUN PAIRS.tsv"):
        evaluate_run(tmp_path / "run")


def test_pairs_that_are_too_long_are_left_out_and_counted(file: Path, tmp_path: Path) -> None:
    listener = Listener()
    start_run([str(file)], tiny(context_length=10), tmp_path / "run", listener)
    [started] = listener.of(Started)
    assert re.search(r"\d+ pairs? longer", str(started.facts)), started.facts


def test_a_few_steps_learn(file: Path, tmp_path: Path) -> None:
    listener = Listener()
    start_run(
        [str(file)],
        tiny(steps=60, warmup=10, learning_rate=1e-2, accumulation=1, batch_size=16),
        tmp_path / "r",
        listener,
    )
    losses = [event.validation_loss for event in listener.of(Evaluated)]
    assert losses[-1] < 0.6 * losses[0]


def test_an_untrained_model_answers_few_pairs_and_no_longer_than_the_longest_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int]] = []

    def answer(model: Any, tokenizer: Any, texts: list[str], max_new_tokens: int) -> list[Any]:
        asked.append((len(texts), max_new_tokens))
        return [type("Translation", (), {"text": ""})] * len(texts)

    monkeypatch.setattr(module, "translate", answer)
    monkeypatch.setattr(module, "TRANSLATED_UNTRAINED", 3)
    made = task()
    made.validate()
    made.batch()
    made.validate()
    longest = max(len(pair.target) for pair in made.validation) + 1
    assert asked == [(3, longest + module.MARGIN), (20, longest + module.MARGIN)]
