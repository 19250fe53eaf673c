"""Conversations: what is read, which tokens are predicted, and a run that learns the answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_helpers import digests

from compyute_transformer.data import CharacterTokenizer
from compyute_transformer.data.text.chats import Chat, ChatBatches, EncodedChat, chat_batches, load_chats
from compyute_transformer.errors import ConfigError, CorpusError
from compyute_transformer.exchange import ChatTemplate
from compyute_transformer.models import Llama, LlamaConfig
from compyute_transformer.ops.loss import IGNORE_INDEX
from compyute_transformer.training import evaluate_run, load_run, resume_run, start_from, start_run
from compyute_transformer.training.settings.settings import Settings
from compyute_transformer.training.tasks.chat import encode_chat

SOURCE = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}.{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
TOKENIZER = CharacterTokenizer("".join(sorted(set("<>.uasy0123456789+= abcdefghijklmnopqrstvwxz"))))


def chat(*texts: str) -> Chat:
    roles = ("user", "assistant")
    return Chat(tuple({"role": roles[i % 2], "content": text} for i, text in enumerate(texts)), "file", 1)


def write(path: Path, chats: list[Chat]) -> str:
    path.write_text("\n".join(json.dumps({"messages": list(each.messages)}) for each in chats) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("published") / "base"
    config = LlamaConfig(TOKENIZER.vocab_size, context_length=32, embed_dim=16, num_heads=2, num_layers=1)
    Llama(config, seed=3).eval().save_pretrained(folder, tokenizer=TOKENIZER)
    (folder / "chat_template.jinja").write_text(SOURCE)
    return folder


def test_only_answers_and_their_ends_are_predicted() -> None:
    ids, answers = encode_chat(chat("1+1", "2", "2+2", "4"), TOKENIZER, ChatTemplate(SOURCE))
    assert TOKENIZER.decode(ids) == "<u>1+1.<a>2.<u>2+2.<a>4."
    assert TOKENIZER.decode(ids[answers]) == "2.4."
    x, y = ChatBatches([EncodedChat(ids, answers)], 1, 32).next()
    assert np.array_equal(x[0], ids[:-1])
    assert np.array_equal(y[0] != IGNORE_INDEX, answers[1:])
    assert np.array_equal(y[0][answers[1:]], ids[answers])


def test_rows_are_padded_and_cut() -> None:
    short = EncodedChat(np.arange(1, 4), np.array([False, True, True]))
    long = EncodedChat(np.arange(10, 19), np.arange(9) >= 4)
    ((x, y),) = chat_batches([long, short], 2, 5)
    assert x.tolist() == [[1, 2, 0, 0, 0], [10, 11, 12, 13, 14]]
    ignored = IGNORE_INDEX
    assert y.tolist() == [[2, 3, ignored, ignored, ignored], [ignored, ignored, ignored, 14, 15]]


def test_each_conversation_comes_once_an_epoch_in_an_order_of_its_own() -> None:
    chats = [EncodedChat(np.array([i, i]), np.array([False, True])) for i in range(7)]
    batches = ChatBatches(chats, 7, 4, seed=2)
    first, second = (batches.next()[0][:, 0].tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert ChatBatches(chats, 7, 4, seed=2).batch(1)[0][:, 0].tolist() == second


def test_a_run_learns_the_answers_and_is_resumed(base: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "sums.jsonl", [chat(f"{i}+{i}", str(i + i)) for i in range(5)] * 5)
    options: dict[str, Any] = {
        "task": "chat",
        "steps": 60,
        "learning_rate": 1e-2,
        "batch_size": 8,
        "context_length": 32,
    }
    options |= {"eval_every": 30, "checkpoint_every": 30, "decay": "constant", "warmup": 0}
    for name, steps in (("whole", 60), ("parts", 30)):
        start = start_from(base)
        settings = start.resolve("finetune", None, {**options, "steps": steps})
        result = start_run(file, settings, tmp_path / name, model=start)
    result = resume_run(tmp_path / "parts", steps=60)
    assert len(digests(tmp_path / "whole")) >= 3
    assert digests(tmp_path / "whole") == digests(tmp_path / "parts")
    assert result.validation_loss is not None
    assert result.validation_loss < 1.5  # ln 44 = 3.8 before
    run = load_run(tmp_path / "whole", "last")
    assert run.tokenizer.vocab_size == TOKENIZER.vocab_size
    found = evaluate_run(tmp_path / "whole", which="last").metrics
    assert found["loss"] == pytest.approx(result.validation_loss, abs=1e-6)
    assert evaluate_run(tmp_path / "whole", [file], "last").own_data


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", 'line 2 of .* has no list "messages"'),
        ("{", "line 2 of .* is no JSON: Expecting"),
        ('{"messages": [{"role": "bot", "content": "x"}]}', '"role" is none of system, user'),
        ('{"messages": [{"role": "assistant", "content": 1}]}', '"content" is no text'),
        ('{"messages": [{"role": "user", "content": "x"}]}', "has no answer"),
    ],
)
def test_lines_that_are_no_conversations_are_refused(line: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "chats.jsonl", [chat("a", "b")])
    (tmp_path / "chats.jsonl").write_text((tmp_path / "chats.jsonl").read_text() + line + "\n")
    with pytest.raises(CorpusError, match=message):
        load_chats(file)


def test_templates_that_change_what_was_said_are_refused() -> None:
    forgetful = ChatTemplate("{{ messages[-2:] }}")
    with pytest.raises(CorpusError, match="must render an answer behind the text before it"):
        encode_chat(chat("a", "b", "c", "d"), TOKENIZER, forgetful)


def test_without_a_template_or_room_for_answers_there_is_no_run(base: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "chats.jsonl", [chat("a" * 40, "b")] * 4)
    start = start_from(base)
    with pytest.raises(CorpusError, match="within the first 32 tokens of a conversation, and in none of 3"):
        start_run(file, start.resolve("finetune", None, {"task": "chat"}), tmp_path / "run", model=start)
    with pytest.raises(ConfigError, match="the task chat is for a run that goes on from a model"):
        start_run(file, Settings.resolve("nano", None, {"task": "chat"}), tmp_path / "run")
