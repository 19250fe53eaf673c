"""Translation: predict a target text from a source text."""

from collections.abc import Mapping, Sequence
from math import exp
from pathlib import Path
from typing import Any

from ...data.pairs.batches import EncodedPairs, PairBatches, fitting_pairs, pair_batches, special_tokens
from ...data.pairs.corpus import Pair, Pairs, load_pairs
from ...data.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from ...errors import RunError
from ...generation.translation import translate
from ...models.transformer import Transformer
from ...random import SAMPLING, RandomKey, integers
from ..reporting.metrics import bleu, chrf, exact_match, has_sacrebleu
from ..settings.settings import Settings, TrainingSettings
from .task import SupervisedTask, TaskEvaluation, mean_loss

__all__ = ["TRANSLATION", "TranslationTask", "evaluate_translation"]

TRANSLATED = 2_000  # validation pairs that are translated at each validation; `compyute eval` translates all
TRANSLATED_UNTRAINED = 200  # before the first step, when no translation ends by itself
MARGIN = 4  # tokens by which a translation may exceed the longest target: a longer one is wrong in any case
SHOWN = 3  # pairs in a sample


class TranslationTask(SupervisedTask):
    """Predict the target of a source: shuffled training pairs, evaluated on the validation pairs.

    training, validation: pairs; without validation pairs there is no validation.

    Raises CorpusError for pairs that are too long, VocabularyError for a sample prompt that the tokenizer cannot
    encode.
    """

    unit = "tokens"

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        training: Sequence[Pair],
        validation: Sequence[Pair],
        settings: TrainingSettings,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        rows, length = settings.accumulation * settings.batch_size, model.config.context_length
        batches = PairBatches(training, tokenizer, rows, length, settings.seed)
        super().__init__(model, batches, settings)
        self.tokenizer = tokenizer
        encoded = batches.encoded
        self.units_per_step = round(rows * float((encoded.source_lengths + encoded.target_lengths).mean()))
        self.training, self.validation = training, validation
        self._encoded = EncodedPairs(validation, tokenizer, length, "validation") if validation else None
        self._facts = dict(facts or {})
        tokenizer.encode(settings.sample_prompt)  # refuses one that cannot be encoded before training

    def validate(self) -> Mapping[str, float]:
        """Return the loss over all validation pairs, and the exact match of greedy translations of the first 2,000.

        An untrained model translates 200. Translations end a few tokens after the longest target.
        """
        if self._encoded is None:
            return {}
        size = self.settings.batch_size
        loss, tokens = mean_loss(self.model, pair_batches(self._encoded, size), -(-len(self._encoded) // size))
        chosen = self.validation[: TRANSLATED if self.batches.cursor else TRANSLATED_UNTRAINED]
        longest = int(self._encoded.target_lengths.max()) + MARGIN
        matched = exact_match(*_translations(self.model, self.tokenizer, chosen, longest))
        return {"loss": loss, "exact_match": matched, "tokens": tokens}

    def sample(self, seed: int) -> str | None:
        """Return three validation pairs with the model's translations, and that of the sample prompt, if any."""
        pairs, prompt = self.validation or self.training, self.settings.sample_prompt
        chosen = [pairs[i] for i in integers(RandomKey(seed, SAMPLING, 0), (SHOWN,), len(pairs)).tolist()]
        sources = [*([prompt] if prompt else []), *(pair.source for pair in chosen)]
        targets = [*([None] if prompt else []), *(pair.target for pair in chosen)]
        translations = translate(self.model, self.tokenizer, sources, max_new_tokens=self.settings.sample_tokens)
        return "\n".join(
            f"source       {source}\ntranslation  {translation.text}\n"
            + ("" if target is None else f"target       {target}\n")
            for source, translation, target in zip(sources, translations, targets, strict=True)
        )

    def facts(self) -> Mapping[str, object]:
        """Return the numbers of pairs and of the vocabulary."""
        return self._facts | {
            "training_pairs": len(self.training),
            "validation_pairs": len(self.validation),
            "vocab_size": self.model.config.vocab_size,
        }


def evaluate_translation(
    model: Transformer, tokenizer: Tokenizer, pairs: Sequence[Pair], batch_size: int
) -> dict[str, float]:
    """Evaluate a model on pairs, in `eval()`.

    Returns loss, the mean negative log-likelihood in nats per token of the targets and their ends, and perplexity;
    exact_match, the fraction of greedy translations that equal the target; their bleu and chrf, in [0, 100], if
    sacreBLEU is installed; tokens and pairs, the numbers that were evaluated. Raises as `EncodedPairs`.
    """
    encoded = EncodedPairs(pairs, tokenizer, model.config.context_length, "given")
    loss, tokens = mean_loss(model, pair_batches(encoded, batch_size), -(-len(encoded) // batch_size))
    translations, targets = _translations(model, tokenizer, pairs)
    scores = {"bleu": bleu(translations, targets), "chrf": chrf(translations, targets)} if has_sacrebleu() else {}
    return {
        "loss": loss,
        "perplexity": exp(min(loss, 700.0)),  # beyond, a float would overflow
        "exact_match": exact_match(translations, targets),
        **scores,
        "tokens": tokens,
        "pairs": len(pairs),
    }


def _translations(
    model: Transformer, tokenizer: Tokenizer, pairs: Sequence[Pair], longest: int | None = None
) -> tuple[list[str], list[str]]:
    """Return the greedy translations of the sources, of at most `longest` tokens, and the targets."""
    translations = translate(model, tokenizer, [pair.source for pair in pairs], max_new_tokens=longest)
    return [translation.text for translation in translations], [pair.target for pair in pairs]


class TranslationRecord:
    """The record of translation: pairs of texts, one tokenizer for both sides, the target of a source."""

    file = "tokenizer.json"

    def load(self, sources: Any) -> Pairs:
        """See `load_pairs`."""
        return load_pairs(sources)

    def encoder(self, data: Pairs, settings: Settings) -> Tokenizer:
        """Train the tokenizer: characters of all pairs, or merges learned from the training pairs alone."""
        kind = settings.data.tokenizer
        pairs = data.pairs + data.held_out if kind == "characters" else data.split(settings.data.validation_fraction)[0]
        between = "" if kind == "characters" else "\n"  # no merge spans two texts
        text = between.join(text for pair in pairs for text in (pair.source, pair.target))
        return train_tokenizer(kind, text, settings.data.vocab_size)

    def load_encoder(self, path: Path) -> Tokenizer:
        """See `load_tokenizer`."""
        return load_tokenizer(path)

    def shape(self, encoder: Any) -> dict[str, Any]:
        """Return the size of the vocabulary, including special tokens."""
        return {"vocab_size": special_tokens(encoder).vocab_size}

    def task(self, model: Transformer, encoder: Tokenizer, data: Pairs, settings: Settings) -> TranslationTask:
        """Split and encode the pairs; those that are longer than the context are left out, and counted."""
        facts: dict[str, object] = {"corpus": data.name}
        left_out = list(data.left_out)
        parts = []
        for pairs in data.split(settings.data.validation_fraction):
            kept, too_long = fitting_pairs(pairs, encoder, model.config.context_length)
            parts.append(kept or pairs)  # if none fits, the error names the longest
            if kept and too_long:
                first = f"first {Path(too_long[0].file).name}, line {too_long[0].line}"
                left_out.append(f"{len(too_long):,} pairs longer than the context ({first})")
        if left_out:
            facts["left out"] = ", ".join(left_out)
        return TranslationTask(model, encoder, parts[0], parts[1], settings.training, facts)

    def evaluate(
        self, model: Transformer, encoder: Tokenizer, data: Pairs, settings: Settings, whole: bool
    ) -> TaskEvaluation:
        """Evaluate on pairs; see `evaluate_translation`."""
        pairs = data.pairs + data.held_out if whole else data.split(settings.data.validation_fraction)[1]
        if not pairs:
            raise RunError(
                "evaluate: the run was trained with validation_fraction 0, so it has no validation split of "
                f"{data.name}. "
                "Give pairs: compyute eval RUN PAIRS.tsv"
            )
        return TaskEvaluation(evaluate_translation(model, encoder, pairs, settings.training.batch_size))


TRANSLATION = TranslationRecord()
