"""Chat: predict the answers of conversations, which the model's chat template renders."""

from collections.abc import Mapping, Sequence
from math import exp
from pathlib import Path
from typing import Any

import numpy as np

from ...data.text.chats import ANSWER, Chat, ChatBatches, Chats, EncodedChat, chat_batches, load_chats
from ...data.text.tokenizer import Tokenizer, load_tokenizer
from ...errors import ConfigError, CorpusError, RunError
from ...exchange.chat import ChatTemplate
from ...exchange.complete import Pretrained
from ...generation.sampling import Sampling
from ...generation.text import generate
from ..settings.settings import Settings, TrainingSettings
from .language import window_of
from .task import SupervisedTask, TaskEvaluation, mean_loss

__all__ = ["CHAT", "PUBLISHED", "ChatEncoder", "ChatTask", "encode_chat"]

PUBLISHED = "published"  # the folder of a run with the files beside the weights of a published model


class ChatEncoder:
    """A tokenizer, and the chat template of its model."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self.tokenizer, self.template = tokenizer, template

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""
        return self.tokenizer.vocab_size

    def save(self, path: str | Path) -> None:
        """Write the tokenizer; the template is among the files of the published model."""
        self.tokenizer.save(path)


def encode_chat(chat: Chat, tokenizer: Tokenizer, template: ChatTemplate) -> EncodedChat:
    """Return the ids of a conversation, and which of them are answers, with the tokens that end them.

    Each answer is encoded on its own, behind the text that asks for it: as the model will read and write it.

    Raises:
        CorpusError: the template renders a conversation otherwise once it goes on, so that answers have no place.
    """
    messages, done = list(chat.messages), ""
    ids: list[np.ndarray] = []
    answers: list[np.ndarray] = []
    for i, message in enumerate(messages):
        if message["role"] != ANSWER:
            continue
        asked = template.render(messages[:i])
        whole = template.render(messages[: i + 1], add_generation_prompt=False)
        if not asked.startswith(done) or not whole.startswith(asked):
            raise CorpusError(
                f"encode_chat: the chat template must render an answer behind the text before it; with line "
                f"{chat.line} of {chat.file} it does not. Give each answer a conversation of its own."
            )
        for text, is_answer in ((asked[len(done) :], False), (whole[len(asked) :], True)):
            part = np.asarray(tokenizer.encode(text), np.int32)
            ids.append(part)
            answers.append(np.full(len(part), is_answer))
        done = whole
    return EncodedChat(np.concatenate(ids), np.concatenate(answers))


class ChatTask(SupervisedTask):
    """Predict the answers of conversations: shuffled epochs, evaluated on conversations that were held out.

    Raises CorpusError where no answer begins within the context.
    """

    unit = "conversations"

    def __init__(
        self,
        model: Any,
        encoder: ChatEncoder,
        training: Sequence[Chat],
        validation: Sequence[Chat],
        settings: TrainingSettings,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        rows, self.length = settings.accumulation * settings.batch_size, window_of(model)
        chosen, left_out = _encoded(training, encoder, self.length)
        super().__init__(model, ChatBatches(chosen, rows, self.length, settings.seed), settings)
        self.encoder, self.units_per_step = encoder, rows
        self.validation = _encoded(validation, encoder, self.length)[0] if validation else []
        self._chats, self._facts = validation or training, dict(facts or {})
        self._facts |= {"conversations": len(chosen), "validation": len(self.validation)}
        if left_out:
            self._facts["left out"] = f"{left_out}, with no answer within {self.length} tokens"

    def validate(self) -> Mapping[str, float]:
        """See `evaluate_chats`."""
        return evaluate_chats(self.model, self.validation, self.settings.batch_size) if self.validation else {}

    def sample(self, seed: int) -> str | None:
        """Return a question, and what the model answers."""
        messages = list(self._chats[0].messages)
        first = next(i for i, message in enumerate(messages) if message["role"] == ANSWER)
        prompt, most = self.encoder.template.render(messages[:first]), self.settings.sample_tokens
        sampling = Sampling(seed=seed)
        return prompt + generate(self.model, self.encoder.tokenizer, prompt, max_new_tokens=most, sampling=sampling)

    def facts(self) -> Mapping[str, object]:
        """Return the data and their sizes."""
        return self._facts


def _encoded(chats: Sequence[Chat], encoder: ChatEncoder, length: int) -> tuple[list[EncodedChat], int]:
    """Return the conversations that have an answer within the context, and the number of the others."""
    encoded = [encode_chat(chat, encoder.tokenizer, encoder.template) for chat in chats]
    chosen = [chat for chat in encoded if chat.answers[1 : length + 1].any()]
    if not chosen:
        raise CorpusError(
            f"ChatTask: an answer begins within the first {length} tokens of a conversation, and in none of "
            f"{len(encoded)} it does. Give a larger --context-length."
        )
    return chosen, len(encoded) - len(chosen)


def evaluate_chats(model: Any, chats: Sequence[EncodedChat], batch_size: int) -> dict[str, float]:
    """Return loss, the mean negative log-likelihood in nats per token of an answer, perplexity, and tokens."""
    batches = chat_batches(chats, batch_size, window_of(model))
    loss, count = mean_loss(model, batches, -(-len(chats) // batch_size))
    return {"loss": loss, "perplexity": exp(min(loss, 700.0)), "tokens": count}


class ChatRecord:
    """The record of conversations: files of JSON lines, a published tokenizer and chat template, the answers."""

    file = "tokenizer.json"

    def load(self, sources: Any) -> Chats:
        """See `load_chats`."""
        return load_chats(sources)

    def encoder(self, data: Chats, settings: Settings) -> ChatEncoder:
        """Refuse a model that begins with random weights: it has no chat template."""
        raise ConfigError(
            "start_run: the task chat is for a run that goes on from a model with a chat template. "
            "Give that model: compyute train --from MODEL"
        )

    def load_encoder(self, path: Path) -> ChatEncoder:
        """Read the tokenizer, and the template among the files of the published model."""
        return ChatEncoder(load_tokenizer(path), Pretrained(path.parent / PUBLISHED).chat_template)

    def shape(self, encoder: ChatEncoder) -> dict[str, Any]:
        """Return the size of the vocabulary."""
        return {"vocab_size": encoder.vocab_size}

    def task(self, model: Any, encoder: ChatEncoder, data: Chats, settings: Settings) -> ChatTask:
        """Split and encode the conversations."""
        training, validation = data.split(settings.data.validation_fraction)
        return ChatTask(model, encoder, training, validation, settings.training, {"corpus": data.name})

    def evaluate(
        self, model: Any, encoder: ChatEncoder, data: Chats, settings: Settings, whole: bool
    ) -> TaskEvaluation:
        """Evaluate on conversations; see `evaluate_chats`."""
        chats = data.chats if whole else data.split(settings.data.validation_fraction)[1]
        if not chats:
            raise RunError("evaluate: the run has no validation split. Give conversations: compyute eval RUN FILE")
        chosen, _ = _encoded(chats, encoder, window_of(model))
        return TaskEvaluation(evaluate_chats(model, chosen, settings.training.batch_size))


CHAT = ChatRecord()
