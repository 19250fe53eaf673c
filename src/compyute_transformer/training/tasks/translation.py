"""Translation: one text from another, learned from pairs."""

from collections.abc import Mapping, Sequence
from math import exp
from pathlib import Path
from typing import Any

from ...data.pairs.batches import EncodedPairs, PairBatches, pair_batches, special_tokens
from ...data.pairs.corpus import Pair, Pairs, load_pairs
from ...data.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from ...errors import RunError
from ...generation.translation import translate
from ...models.transformer import Transformer
from ...random import SAMPLING, RandomKey, integers
from ..reporting.metrics import bleu, has_sacrebleu, exact_match
from ..settings.settings import Settings, TrainingSettings
from .task import TaskEvaluation, SupervisedTask, mean_loss

__all__ = ["TRANSLATION", "TranslationTask", "evaluate_translation"]

ANSWERED = 2_000  # validation pairs that are answered at each evaluation; `compyute eval` answers all
ANSWERED_UNTRAINED = 200  # before the first step, when no answer comes to its end
MARGIN = 4  # tokens that an answer may have more than the longest target: one that is longer is wrong already
SHOWN = 3  # pairs a sample shows


class TranslationTask(SupervisedTask):
    """Write the target that goes with a source: shuffled pairs to train on, others to be judged by.

    training, validation: pairs; of validation none, where nothing shall be validated.

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
        tokenizer.encode(settings.sample_prompt)  # refuses one that cannot be encoded now

    def validate(self) -> Mapping[str, float]:
        """Loss over all validation pairs; exact_match of greedy answers to the first 2000 of them, of a new model 200.

        Answers end a few tokens after the longest target.
        """
        if self._encoded is None:
            return {}
        loss, tokens = mean_loss(self.model, pair_batches(self._encoded, self.settings.batch_size))
        answered = self.validation[: ANSWERED if self.batches.cursor else ANSWERED_UNTRAINED]
        longest = int(self._encoded.target_lengths.max()) + MARGIN
        matched = exact_match(*_answers(self.model, self.tokenizer, answered, longest))
        return {"loss": loss, "exact_match": matched, "tokens": tokens}

    def sample(self, seed: int) -> str | None:
        """Three validation pairs, each with what the model answers; and its answer to the sample prompt, if any."""
        pairs, prompt = self.validation or self.training, self.settings.sample_prompt
        chosen = [pairs[i] for i in integers(RandomKey(seed, SAMPLING, 0), (SHOWN,), len(pairs)).tolist()]
        sources = [*([prompt] if prompt else []), *(pair.source for pair in chosen)]
        truths = [*([None] if prompt else []), *(pair.target for pair in chosen)]
        answers = translate(self.model, self.tokenizer, sources, max_new_tokens=self.settings.sample_tokens)
        return "\n".join(
            f"source  {source}\nanswer  {answer.text}\n" + ("" if truth is None else f"truth   {truth}\n")
            for source, answer, truth in zip(sources, answers, truths, strict=True)
        )

    def facts(self) -> Mapping[str, object]:
        """Pairs and vocabulary."""
        return self._facts | {
            "training_pairs": len(self.training),
            "validation_pairs": len(self.validation),
            "vocab_size": self.model.config.vocab_size,
        }


def evaluate_translation(model: Transformer, tokenizer: Tokenizer, pairs: Sequence[Pair], batch_size: int) -> dict[str, float]:
    """How well a model answers pairs, in `eval()`.

    Returns loss, the mean in nats a token of the targets and their ends, and perplexity; exact_match, the share of
    greedy answers that are the target; bleu of them, in [0, 100], where sacreBLEU is installed; tokens and pairs, how
    many there were. Raises as `EncodedPairs`.
    """
    encoded = EncodedPairs(pairs, tokenizer, model.config.context_length, "given")
    loss, tokens = mean_loss(model, pair_batches(encoded, batch_size))
    answers, truths = _answers(model, tokenizer, pairs)
    return {
        "loss": loss,
        "perplexity": exp(min(loss, 700.0)),  # beyond, a float would overflow
        "exact_match": exact_match(answers, truths),
        **({"bleu": bleu(answers, truths)} if has_sacrebleu() else {}),
        "tokens": tokens,
        "pairs": len(pairs),
    }


def _answers(
    model: Transformer, tokenizer: Tokenizer, pairs: Sequence[Pair], longest: int | None = None
) -> tuple[list[str], list[str]]:
    """(greedy answers to the sources, of at most `longest` tokens; what they should have been)."""
    answers = translate(model, tokenizer, [pair.source for pair in pairs], max_new_tokens=longest)
    return [answer.text for answer in answers], [pair.target for pair in pairs]


class TranslationRecord:
    """Pairs of texts, one tokenizer for both sides, and the target that goes with a source."""

    file = "tokenizer.json"

    def load(self, sources: Any) -> Pairs:
        """See `load_pairs`."""
        return load_pairs(sources)

    def encoder(self, data: Pairs, settings: Settings) -> Tokenizer:
        """Characters must be known in the validation pairs too; merges are learned from the training pairs alone."""
        kind = settings.data.tokenizer
        pairs = data.pairs + data.held_out if kind == "characters" else data.split(settings.data.validation_fraction)[0]
        between = "" if kind == "characters" else "\n"  # no merge reaches from one text into the next
        text = between.join(text for pair in pairs for text in (pair.source, pair.target))
        return train_tokenizer(kind, text, settings.data.vocab_size)

    def load_encoder(self, path: Path) -> Tokenizer:
        """See `load_tokenizer`."""
        return load_tokenizer(path)

    def shape(self, encoder: Any) -> dict[str, Any]:
        """The size of the vocabulary, special tokens included."""
        return {"vocab_size": special_tokens(encoder).vocab_size}

    def task(self, model: Transformer, encoder: Tokenizer, data: Pairs, settings: Settings) -> TranslationTask:
        """The pairs, cut in two and encoded."""
        training, validation = data.split(settings.data.validation_fraction)
        return TranslationTask(model, encoder, training, validation, settings.training, {"corpus": data.name})

    def evaluate(self, model: Transformer, encoder: Tokenizer, data: Pairs, settings: Settings, whole: bool) -> TaskEvaluation:
        """Answer pairs; see `evaluate_translation`."""
        pairs = data.pairs + data.held_out if whole else data.split(settings.data.validation_fraction)[1]
        if not pairs:
            raise RunError(
                f"judge: the run was trained with validation_fraction 0, so it kept no pairs of {data.name} to be "
                "judged by. Give some: compyute eval RUN PAIRS.tsv"
            )
        return TaskEvaluation(evaluate_translation(model, encoder, pairs, settings.training.batch_size))


TRANSLATION = TranslationRecord()
