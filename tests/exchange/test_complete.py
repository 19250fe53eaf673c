"""A model with what belongs to it: chat templates, generation_config.json, the commands `chat` and `convert`."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from command_helpers import TEXT, TINY

from compyute_transformer import cli
from compyute_transformer.data import CharacterTokenizer, load_tokenizer, train_tokenizer
from compyute_transformer.errors import DataError, DownloadError, MissingExtraError
from compyute_transformer.exchange import (
    AutoModel,
    ChatTemplate,
    Pretrained,
    chat,
    generation_defaults,
    is_pretrained,
    model_path,
    read_tensors,
)
from compyute_transformer.exchange.embed import embed_ids
from compyute_transformer.exchange.hub import fetch, is_hub_name
from compyute_transformer.generation import Sampling, evaluate_ids, generate
from compyute_transformer.models import Bert, BertConfig, Llama, LlamaConfig
from compyute_transformer.training import load_run
from compyute_transformer.training.reporting.reporters import printable

TEMPLATE = """{% for message in messages %}
{% if message.role not in ("system", "user", "assistant") %}{{ raise_exception("no role " + message.role) }}{% endif %}
{{ bos_token + message.role + ":" }}{% generation %}{{ message.content | trim }}{% endgeneration %}

{% endfor %}
{% if add_generation_prompt %}{{ bos_token + "assistant:" }}{% endif %}"""
HELLO = [{"role": "user", "content": " Hello <3 "}]


def test_a_template_is_rendered_as_transformers_does() -> None:
    template = ChatTemplate(TEMPLATE, {"bos_token": "<s>"})
    assert template.render(HELLO) == "<s>user:Hello <3\n<s>assistant:"
    assert template.render(HELLO, add_generation_prompt=False) == "<s>user:Hello <3\n"
    assert ChatTemplate("{{ messages | tojson }}").render(HELLO) == json.dumps(HELLO)
    assert ChatTemplate("{{ tools }} {{ x }}").render([], x=3) == "None 3"
    assert (
        ChatTemplate("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}").render([])
        == "01"
    )
    assert len(ChatTemplate("{{ strftime_now('%Y') }}").render([])) == 4


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('only users') }}", "only users"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ 'a' * 100000000 }}", "repeated too often"),
        ("{{ 100000000 * [1] }}", "repeated too often"),
        ("{{ 9 ** 999999999 }}", "not allowed"),
        ("{{ '%999999999d' % 1 }}", "not allowed"),
        ("{{ 'a'.ljust(999999999) }}", "unsafe|not safe"),
        ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "has more than"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "takes longer"),
        ("{% include 'other' %}", "no loader"),
    ],
)
def test_a_template_does_nothing_but_make_a_text(source: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "SECONDS", 0.2 if words == "takes longer" else 60.0)
    with pytest.raises(DataError, match=f"(?s)cannot be applied to these messages: .*({words})"):
        ChatTemplate(source).render(HELLO)


@pytest.mark.parametrize("source", ["{% for %}", "{{ 'a' | center(999999999) }}", "{% generation %}"])
def test_what_is_no_template_is_refused(source: str) -> None:
    with pytest.raises(DataError, match="is no Jinja template"):
        ChatTemplate(source)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, Sampling(temperature=0.0)),
        ({"temperature": 0.7, "top_p": 0.9}, Sampling(temperature=0.0)),  # without do_sample
        ({"repetition_penalty": 1.5}, Sampling(temperature=0.0, repetition_penalty=1.5)),
        ({"do_sample": True}, Sampling(temperature=1.0, top_k=50)),
        ({"do_sample": True, "temperature": 0.7, "top_k": 0}, Sampling(temperature=0.7)),
        (
            {"do_sample": True, "top_k": 9, "top_p": 0.5, "min_p": 0.1},
            Sampling(temperature=1.0, top_k=9, top_p=0.5, min_p=0.1),
        ),
        ({"do_sample": True, "top_k": 9, "top_p": 1.0}, Sampling(temperature=1.0, top_k=9)),
    ],
    ids=str,
)
def test_the_defaults_of_generation_are_those_of_transformers(values: dict[str, Any], expected: Sampling) -> None:
    assert generation_defaults(values, 10).sampling == expected


def test_end_tokens_and_what_has_no_effect_are_told() -> None:
    assert generation_defaults({"eos_token_id": 3}, 10).stop_ids == (3,)
    found = generation_defaults({"eos_token_id": [3, 5, 99], "max_new_tokens": 7, "num_beams": 4, "typical_p": 1.0}, 10)
    assert (found.stop_ids, found.max_new_tokens, found.ignored) == ((3, 5), 7, ("num_beams",))
    for values, words in (
        ({"eos_token_id": "</s>"}, "eos_token_id is an id"),
        ({"max_new_tokens": -1}, "max_new_tokens is a whole number"),
        ({"do_sample": True, "top_p": 2.0}, "top_p lies in"),
        ({"do_sample": True, "temperature": "hot"}, "temperature is a number, got 'hot'"),
    ):
        with pytest.raises(DataError, match=words):
            generation_defaults(values, 10)


# --- a directory, and the commands -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with everything that a published model that chats has."""
    folder = tmp_path_factory.mktemp("exchange") / "chatty"
    tokenizer = train_tokenizer("bpe", TEXT, 262)
    config = LlamaConfig(tokenizer.vocab_size, 128, 16, 2, 1, tie_word_embeddings=False)
    model = Llama(config, seed=1)
    model.flat.data *= 30  # so that every token counts
    model.save_pretrained(folder, tokenizer=tokenizer)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [], "max_new_tokens": 6}))
    config = {"bos_token": {"content": "!"}, "chat_template": TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / ".hidden").write_text("")
    return folder


def run(*arguments: object) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    assert not left.value.code


def test_an_answer_ends_at_any_of_the_end_tokens(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Pretrained(folder)
    ids = opened.tokenizer.encode("!user:Hello\n!assistant:")
    whole = opened.model.generate(np.array(ids), max_new_tokens=6, temperature=0)[len(ids) :]
    run("chat", folder, "--prompt", "Hello", "--json")
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == opened.tokenizer.decode(whole)
    assert (answer["tokens"], answer["ended"]) == (6, False)
    run("chat", folder, "--prompt", "Hello", "--json", "--draft", folder)
    drafted = json.loads(capsys.readouterr().out)
    assert (drafted["text"], drafted["accepted"], drafted["drafted"]) == (answer["text"], 4, 4)
    end = next(i for i in range(1, 6) if whole[i] not in whole[:i])
    run("convert", folder, tmp_path / "copy")
    (tmp_path / "copy" / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, int(whole[end])]}))
    capsys.readouterr()
    run("chat", tmp_path / "copy", "--prompt", "Hello", "--json")
    answer = json.loads(capsys.readouterr().out)
    assert (answer["text"], answer["ended"]) == (opened.tokenizer.decode(whole[:end]), True)
    assert answer["tokens"] == end
    run("generate", tmp_path / "copy", "--prompt", "!user:Hello\n!assistant:", "--json")
    assert json.loads(capsys.readouterr().out)["text"] == answer["text"]


def test_a_conversation_holds_what_was_said_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    seen: list[list[dict[str, str]]] = []
    plain = ChatTemplate.render

    def noting(self: ChatTemplate, messages: Any) -> str:
        seen.append(list(messages))
        return plain(self, messages)

    monkeypatch.setattr(ChatTemplate, "render", noting)
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\ntwo\n"))
    run("chat", folder, "--system", "be\\nbrief", "--max-new-tokens", "2")
    said = seen[1][2]["content"]
    assert said
    assert capsys.readouterr().out.startswith(printable(said, sys.stdout) + "\n")
    assert seen[0] == [{"role": "system", "content": "be\nbrief"}, {"role": "user", "content": "one"}]
    assert seen[1] == [*seen[0], {"role": "assistant", "content": said}, {"role": "user", "content": "two"}]


def test_what_cannot_chat_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("convert", folder, tmp_path / "copy")
    (tmp_path / "copy" / "tokenizer_config.json").write_text("{}")
    others = CharacterTokenizer("".join(map(chr, range(100, 100 + Pretrained(folder).tokenizer.vocab_size))))
    Llama(LlamaConfig(others.vocab_size, 128, 16, 2, 1)).save_pretrained(tmp_path / "other", tokenizer=others)
    for arguments, words in (
        (("chat", tmp_path / "copy", "--prompt", "a"), "has a chat template"),
        (("chat", tmp_path, "--prompt", "a"), "is no directory with the config.json"),
        (("chat", folder, "--prompt", "a" * 200), "a conversation has at most 128 tokens"),
        (("convert", folder, tmp_path / "copy"), "OUT is a new or an empty folder"),
        (("convert", folder, folder / "in"), "OUT lies inside IN"),
        (("convert", folder, tmp_path / "b", "--checkpoint", "last"), "--checkpoint chooses"),
        (("generate", folder, "--checkpoint", "last"), "--checkpoint chooses"),
        (
            ("generate", folder, "--draft", tmp_path / "other"),
            "has others. Give a smaller model with the same tokenizer",
        ),
    ):
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
        assert left.value.code in (1, 2)
        assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_directory_is_converted_with_the_files_beside_the_weights(folder: Path, tmp_path: Path) -> None:
    run("convert", folder, tmp_path / "half", "--dtype", "float16")
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    copied = {str(file.relative_to(tmp_path / "half")) for file in (tmp_path / "half").rglob("*") if file.is_file()}
    assert copied == names - {".hidden"}
    for name in copied - {"model.safetensors", "config.json"}:
        assert (tmp_path / "half" / name).read_bytes() == (folder / name).read_bytes()
    before, after = read_tensors(folder), read_tensors(tmp_path / "half")
    assert set(before) == set(after)
    for name in before:
        assert after.dtype(name) == "F16"
        assert np.array_equal(after[name], before[name].astype(np.float16))


def test_a_run_is_converted_with_its_characters_and_without_biases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "owl.txt").write_text(TEXT)
    # "auto" may be bfloat16 here, and a directory does not keep it
    exact = "--precision", "float32"
    run("train", tmp_path / "owl.txt", "--out", tmp_path / "run", "--steps", 2, *TINY, *exact)
    run("convert", tmp_path / "run", tmp_path / "out")
    assert is_pretrained(tmp_path / "out")
    assert not is_pretrained(tmp_path / "run")
    with pytest.raises(SystemExit) as left:
        cli.main(["convert", str(tmp_path / "run"), str(tmp_path / "more"), "--num-heads", "2"])
    assert left.value.code
    assert "--num-heads is of files that do not say it" in capsys.readouterr().err
    trained, opened = load_run(tmp_path / "run"), Pretrained(tmp_path / "out")
    assert not trained.model.config.bias
    ids = trained.tokenizer.encode("a beautiful boat")
    assert opened.tokenizer.encode("a beautiful boat").tolist() == ids.tolist() == opened.encode("a beautiful boat")
    assert opened.tokenizer.decode(ids) == "a beautiful boat"
    assert np.allclose(opened.model(ids[None]), trained.model(ids[None]), atol=1e-6)
    assert "model_type" in json.loads((tmp_path / "out" / "config.json").read_text())


def test_every_character_has_the_same_id(tmp_path: Path) -> None:
    tokenizer = CharacterTokenizer("ab \n\tä😀'\"Ġ")
    Llama(LlamaConfig(tokenizer.vocab_size, 8, 16, 2, 1)).save_pretrained(tmp_path, tokenizer=tokenizer)
    text = "😀 a\n\nĠ b'ä\"\t"
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert again.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert again.decode(tokenizer.encode(text)) == text


def test_a_model_is_found_in_an_installed_package(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_model_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('is not imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert model_path("some_model_package") == Path("some_model_package")
    run("convert", folder, package / "model")
    assert model_path("some_model_package") == package / "model"
    assert model_path("json") == Path("json")
    assert Pretrained("some_model_package").path == package / "model"
    run("convert", folder, package / "second")
    with pytest.raises(DataError, match="holds several models"):
        model_path("some_model_package")


def test_the_first_token_is_put_where_the_file_asks_for_it(folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors

    run("convert", folder, tmp_path / "copy")
    library = Tokenizer.from_file(str(tmp_path / "copy" / "tokenizer.json"))
    library.post_processor = processors.TemplateProcessing(single="! $A", special_tokens=[("!", 0)])
    library.save(str(tmp_path / "copy" / "tokenizer.json"))
    opened = Pretrained(tmp_path / "copy")
    plain = opened.tokenizer.encode("the owl").tolist()
    assert opened.encode("the owl") == [0, *plain]
    sampling = Sampling(temperature=0.0)
    from_ids = generate(opened.model, opened.tokenizer, [0, *plain], max_new_tokens=5, sampling=sampling)
    assert from_ids == generate(opened.model, opened.tokenizer, "!the owl", max_new_tokens=5, sampling=sampling)


def test_each_line_of_a_file_gets_a_vector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_tokenizer("bpe", TEXT, 262)
    model = Bert(BertConfig(tokenizer.vocab_size, 16, 12, 3, 1, masked_head=False))
    model.save_pretrained(tmp_path / "bert", tokenizer=tokenizer)
    texts = ["the owl", "a beautiful boat " * 9, "the owl"]
    (tmp_path / "lines.txt").write_text("\n".join([*texts, ""]))
    (tmp_path / "bert" / "sentence_bert_config.json").write_text('{"max_seq_length": 9}')
    run("embed", tmp_path / "bert", tmp_path / "lines.txt")
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in printed] == [text.strip() for text in texts]
    ids = [tokenizer.encode(text.strip()).tolist() for text in texts]
    ids[1] = [*ids[1][:8], ids[1][-1]]  # cut, but for what ends the text
    expected = embed_ids(model.eval(), ids)
    assert np.allclose([line["vector"] for line in printed], expected, atol=1e-6)
    run("embed", tmp_path / "bert", tmp_path / "lines.txt", "--out", tmp_path / "x.npy")
    assert np.allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-6)
    with pytest.raises(SystemExit) as left:
        cli.main(["embed", str(tmp_path), str(tmp_path / "lines.txt")])
    assert left.value.code == 2


def test_a_published_model_is_evaluated_and_chooses(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "owl.txt").write_text(TEXT[:500])
    run("eval", folder, tmp_path / "owl.txt", "--json", "--stride", 32)
    found = json.loads(capsys.readouterr().out)
    opened = Pretrained(folder)
    expected = evaluate_ids(opened.model, opened.tokenizer, opened.encode(TEXT[:500]), stride=32)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    run("generate", folder, "--prompt", "the owl", "--choices", "and,or", "--json")
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == answer["choices"][0]["text"]
    assert sum(choice["probability"] for choice in answer["choices"]) == pytest.approx(1)
    run("generate", folder, "--prompt", "the owl", "--choices", "and,or")
    assert capsys.readouterr().out == answer["text"] + "\n"
    for arguments in (
        ("eval", folder),
        ("eval", folder, tmp_path / "owl.txt", "--picture", tmp_path / "a.png"),
        ("generate", folder, "--choices", "a,b", "--top-k", "3"),
    ):
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
        assert left.value.code == 2


def test_a_name_is_fetched_and_a_mistyped_path_is_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        if name == "some/none":
            raise ConnectionError("no route\nto the host")
        return str(folder)

    library = ModuleType("huggingface_hub")
    library.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    monkeypatch.chdir(tmp_path)
    fetch.cache_clear()
    ids = np.arange(5)[None]
    expected = AutoModel.from_pretrained(folder)(ids)
    assert np.array_equal(AutoModel.from_pretrained("some/chatty")(ids), expected)
    assert np.array_equal(Pretrained("some/chatty").model(ids), expected)
    assert asked == [("some/chatty", ["*.json", "*.jinja", "*.safetensors", "*.txt"])]  # once
    with pytest.raises(
        DownloadError, match=r"some/none is no folder here, .* cannot be fetched: no route Give the path"
    ):
        AutoModel.from_pretrained("some/none")
    (tmp_path / "runs").mkdir()
    for name in ("runs/nano", "./some/chatty", "some/more/chatty", "../chatty", Path("some/chatty")):
        assert not is_hub_name(name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'compyute-transformer\[hub\]'"):
        AutoModel.from_pretrained("some/other")
