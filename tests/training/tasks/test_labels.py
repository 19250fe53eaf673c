"""Labels of texts: what is read, the replaced head, and runs that learn, go on and predict."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_helpers import digests

from compyute_transformer import cli
from compyute_transformer.data import CharacterTokenizer
from compyute_transformer.data.text.labels import (
    EncodedText,
    LabelBatches,
    has_labels,
    label_batches,
    load_labeled_texts,
)
from compyute_transformer.errors import ConfigError, CorpusError, DataError, RangeError, RunError, ShapeError
from compyute_transformer.exchange import add_lora
from compyute_transformer.exchange.tensors import read_tensors, write_tensors
from compyute_transformer.models import GPT, Bert, BertConfig, GPTConfig, Llama, LlamaConfig
from compyute_transformer.training import (
    evaluate_run,
    load_classifier,
    load_run,
    predict_labels,
    predict_texts,
    resume_run,
    save_classifier,
    start_from,
    start_run,
)
from compyute_transformer.training.settings.settings import Settings
from compyute_transformer.training.tasks.classifier import TextClassifier
from compyute_transformer.verify import check_module
from compyute_transformer.verify.function import randomize

UNNAMED_TWICE = {"0": "LABEL_0", "1": "LABEL_0"}
TOKENIZER = CharacterTokenizer(" abcdefghijklmnopqrstuvwxyz")
SIZES: dict[str, Any] = {"context_length": 16, "embed_dim": 12, "num_heads": 2, "num_layers": 2}
BASES: dict[str, Any] = {
    "llama": Llama(LlamaConfig(27, **SIZES), seed=1),
    "bert": Bert(BertConfig(28, **SIZES), seed=1),
    "bert without a head": Bert(BertConfig(28, **SIZES, masked_head=False), seed=1),
}
LABELED = [(f"{'ab'[i % 2] * (1 + i % 5)} {'xyz'[i % 3]}", ("bad", "good")[i % 2]) for i in range(40)]
FEW: dict[str, Any] = {"steps": 20, "batch_size": 8, "learning_rate": 0.03, "eval_every": 10, "checkpoint_every": 10}


def write(path: Path, rows: Any) -> str:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write(tmp_path / "labeled.jsonl", LABELED)


def saved(name: str, tmp_path: Path) -> Path:
    BASES[name].save_pretrained(tmp_path / "base", tokenizer=TOKENIZER)
    return tmp_path / "base"


# --- what is read ---


def test_texts_are_read_and_split_by_label(data: str, tmp_path: Path) -> None:
    found = load_labeled_texts(data)
    assert (found.name, found.sources, found.labels) == ("labeled", (data,), ("bad", "good"))
    assert [tuple(each) for each in found.texts] == LABELED
    training, validation = found.split(0.2)
    assert sorted([*training, *validation]) == sorted(found.texts)
    assert [sum(each.label == label for each in validation) for label in found.labels] == [4, 4]
    assert found.split(0.2) == (training, validation)
    assert found.split(0.0) == (list(found.texts), [])
    again = load_labeled_texts([data, data])
    assert len(again.texts) == 80
    assert again.sha256 != found.sha256
    few = load_labeled_texts(write(tmp_path / "few.jsonl", [("a", "1"), ("b", "2"), ("c", "2")]))
    assert [each.text for each in few.split(0.1)[1]] in (["b"], ["c"])
    with pytest.raises(CorpusError, match="each label of one has one text"):
        load_labeled_texts(write(tmp_path / "one.jsonl", [("a", "1"), ("b", "2")])).split(0.1)
    with pytest.raises(RangeError, match=r"lies in \[0, 1\)"):
        found.split(1.0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text": "a", "label": "x"}\n{"text": 3, "label": "y"}\n', "line 2 of"),
        ('{"text": "a"}\n', 'a line is an object with two texts, {"text"'),
        ('{"text": " ", "label": "x"}\n', "line 1 of"),
        ("text,label\na,x\n", "is no JSON"),
        ('{"text": "a", "label": "x"}\n', "at least two labels to tell apart, got x"),
        ("\n", "at least two labels to tell apart, got none"),
    ],
)
def test_what_are_no_labeled_texts_is_refused(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(CorpusError, match=words):
        load_labeled_texts(tmp_path / "a.jsonl")
    with pytest.raises(CorpusError, match="cannot be read"):
        load_labeled_texts(tmp_path / "b.jsonl")
    with pytest.raises(CorpusError, match="at least one"):
        load_labeled_texts([])


def test_files_of_labels_are_told_from_conversations(data: str, tmp_path: Path) -> None:
    assert has_labels(data)
    for content in ('{"messages": []}\n', "[]", "3", "{", ""):
        (tmp_path / "chat.jsonl").write_text(content)
        assert not has_labels(tmp_path / "chat.jsonl")
    assert not has_labels(tmp_path / "none.jsonl")


def test_each_text_comes_once_an_epoch_in_padded_rows() -> None:
    texts = [EncodedText(np.arange(1, 2 + i), i) for i in range(6)]
    batches = LabelBatches(texts, 3, seed=5)
    rows = [(ids[:n].tolist(), int(label)) for _ in range(2) for ids, n, label in zip(*batches.next(), strict=True)]
    assert sorted(rows) == [(text.ids.tolist(), text.label) for text in texts]
    assert batches.cursor == 2
    assert any(not np.array_equal(a, b) for a, b in zip(batches.batch(0), batches.batch(2), strict=True))
    ids, lengths, labels = next(label_batches(texts[:3], 3))
    assert ids.tolist() == [[1, 0, 0], [1, 2, 0], [1, 2, 3]]
    assert (lengths.tolist(), labels.tolist()) == ([1, 2, 3], [0, 1, 2])


# --- the head ---


def test_a_head_has_the_dtype_of_its_model() -> None:
    made = TextClassifier(Llama(LlamaConfig(9, **SIZES)).to(dtype=np.float64), 3)
    assert {parameter.dtype for parameter in made.parameters()} == {np.dtype(np.float64)}


@pytest.mark.parametrize("trunk", ["gpt", "llama", "bert"])
def test_the_gradients_of_a_classifier_are_right(trunk: str) -> None:
    sizes: dict[str, Any] = {"context_length": 5, "embed_dim": 8, "num_heads": 2, "num_layers": 1}
    model: Any = {
        "gpt": lambda: GPT(GPTConfig(9, **sizes)),
        "llama": lambda: Llama(LlamaConfig(9, **sizes)),
        "bert": lambda: Bert(BertConfig(9, **sizes, masked_head=False)),
    }[trunk]()
    made = TextClassifier(model, 3, seed=2)
    randomize(made)
    made.to(dtype=np.float64)
    ids, lengths = np.array([[1, 2, 3, 4], [5, 6, 0, 0]]), np.array([4, 2])
    check_module(made, ids, lengths)
    logits = made.eval()(ids, lengths)
    assert logits.shape == (2, 3)
    np.testing.assert_allclose(logits[1:], made(ids[1:, :2], lengths[1:]), rtol=1e-10)  # padding counts for nothing
    states = model(ids, lengths) if trunk == "bert" else model(ids)
    expected = made.head(states[:, :2].mean(axis=1)) if trunk == "bert" else states[:, 1]
    np.testing.assert_allclose(logits[1], expected[1], rtol=1e-10)
    with pytest.raises(ShapeError, match=r"lengths have shape \(2,\)"):
        made(ids, lengths[:1])
    for wrong in ([0, 2], [4, 5]):
        with pytest.raises(RangeError, match=r"lengths lie in \[1, 4\]"):
            made(ids, np.array(wrong))


# --- runs ---


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", {}),
        ("bert", {"lora_rank": 2, "lora_targets": "query,value"}),
        ("bert without a head", {"train_blocks": 1}),
        ("llama", {"train_blocks": 1, "lora_rank": 2}),
    ],
)
def test_a_run_learns_labels_and_works_without_its_base(
    name: str, options: dict[str, Any], data: str, tmp_path: Path
) -> None:
    start, run = start_from(saved(name, tmp_path)), tmp_path / "run"
    settings = start.resolve("finetune", None, {**FEW, **options, "task": "labels", "validation_fraction": 0.2})
    result = start_run(data, settings, run, model=start)
    shutil.rmtree(tmp_path / "base")
    loaded = load_run(run)
    assert isinstance(loaded.model, TextClassifier)
    found = evaluate_run(run)
    assert found.metrics["accuracy"] == 1.0
    assert found.metrics["texts"] == 8
    assert found.metrics["loss"] == pytest.approx(result.validation_loss)
    assert found.confusion is not None
    trained = {name for name, p in loaded.model.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in trained} >= {"head"}
    assert (len(trained) == len(loaded.model.state_dict())) is not bool(options)
    predicted = list(predict_labels(loaded, ["aa x", "bbb z"]))
    assert [each.output for each in predicted] == ["bad", "good"]
    assert predicted[0].probability == max(predicted[0].probabilities.values()) > 0.5
    assert sum(predicted[1].probabilities.values()) == pytest.approx(1)
    assert evaluate_run(run, write(tmp_path / "o.jsonl", [("aa", "good"), ("b", "good"), ("a", "bad")])).metrics[
        "accuracy"
    ] == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="the labels of the run are bad, good, got new"):
        evaluate_run(run, write(tmp_path / "n.jsonl", [("a", "new"), ("a", "bad")]))
    with pytest.raises(RunError, match="learned labels, not pairs"):
        next(predict_texts(loaded, ["a"]))


def test_a_run_that_was_interrupted_ends_with_the_same_bits(data: str, tmp_path: Path) -> None:
    base = saved("bert", tmp_path)
    for name, steps in (("whole", [20]), ("halves", [10, 20])):
        start = start_from(base)
        settings = start.resolve(
            "finetune", None, {**FEW, "task": "labels", "dropout": 0.1, "decay": "constant", "warmup": 1}
        )
        start_run(data, settings.with_overrides({"steps": steps[0]}), tmp_path / name, model=start)
        for total in steps[1:]:
            resume_run(tmp_path / name, steps=total)
    whole, halves = digests(tmp_path / "whole"), digests(tmp_path / "halves")
    assert {name for name in whole if name.endswith("model.safetensors")}
    assert {n: d for n, d in whole.items() if "model" in n} == {n: halves[n] for n in whole if "model" in n}


def test_the_command_trains_evaluates_and_predicts(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert not left.value.code, captured.err
        return captured.out

    options = [f"--{name.replace('_', '-')}={value}" for name, value in FEW.items()]
    shown = run(
        "train", data, "--from", saved("llama", tmp_path), "--out", tmp_path / "run", "--sample-every", 10, *options
    )
    assert "compyute predict" in shown
    assert "bad (" in (tmp_path / "run" / "samples.txt").read_text()
    assert json.loads(run("eval", tmp_path / "run", "--json"))["accuracy"] == 1.0
    (tmp_path / "texts.txt").write_text("aaa y\nb\n")
    rows = [line.split(",")[:2] for line in run("predict", tmp_path / "run", tmp_path / "texts.txt").splitlines()]
    assert rows == [["input", "prediction"], ["aaa y", "bad"], ["b", "good"]]
    run("convert", tmp_path / "run", tmp_path / "published")
    whole = run("predict", tmp_path / "run", tmp_path / "texts.txt", "--json")
    again = run("predict", tmp_path / "published", tmp_path / "texts.txt", "--json")
    for ours, theirs in zip(whole.splitlines(), again.splitlines(), strict=True):
        assert json.loads(theirs)["probabilities"] == pytest.approx(json.loads(ours)["probabilities"], abs=1e-5)
    for arguments, words in (
        (("generate", tmp_path / "run"), "learned labels and generates no text"),
        (("convert", tmp_path / "run", tmp_path / "out.gguf"), "whose head has no place in the files of a .gguf file"),
        (("predict", tmp_path / "run", "--beam", 2), "--beam is for runs that learned pairs"),
        (("predict", tmp_path / "published", "--beam", 2), "--beam is for runs that learned pairs"),
        (("predict", tmp_path / "published", "--checkpoint", "last"), "--checkpoint chooses between those of a run"),
        (("explain", tmp_path / "run", "--prompt", "a"), "got one of labels"),
        (("verify", tmp_path / "run"), "cannot be verified by its folder"),
        (("train", data, "--task", "labels", "--runs", tmp_path), "--from MODEL"),
        (("train", data, "--from", tmp_path / "run", "--runs", tmp_path), "got one that learned other answers"),
    ):
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
        assert left.value.code
        assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_directory_that_is_no_classifier_of_a_decoder_is_refused(tmp_path: Path) -> None:
    labels = ("bad", "good")
    with pytest.raises(ConfigError, match="by the mean of all tokens"):
        save_classifier(TextClassifier(Bert(BertConfig(9, **SIZES, masked_head=False)), 2), tmp_path / "bert", labels)
    assert not (tmp_path / "bert").exists()
    with pytest.raises(ConfigError, match=r"ForSequenceClassification is read, got \['LlamaForCausalLM'\] of 'llama'"):
        load_classifier(saved("llama", tmp_path))
    save_classifier(TextClassifier(Llama(LlamaConfig(27, **SIZES)), 2), tmp_path / "new", labels)
    values = json.loads((tmp_path / "new" / "config.json").read_text())
    for wrong in ({"0": "bad"}, {"0": "bad", "2": "good"}, ["bad", "good"], None, 5, {"0": 1, "1": 2}, UNNAMED_TWICE):
        (tmp_path / "new" / "config.json").write_text(json.dumps(values | {"id2label": wrong}))
        with pytest.raises(DataError, match=r"a label of its own for each of the 2 rows of score\.weight, got"):
            load_classifier(tmp_path / "new")
    (tmp_path / "new" / "config.json").write_text(json.dumps(values | {"problem_type": "multi_label_classification"}))
    with pytest.raises(ConfigError, match=r"one label of several, .*got 'multi_label_classification'"):
        load_classifier(tmp_path / "new")
    for others in (("bad",), ("bad", "bad"), ("bad", "so so", "good"), (1, 2)):
        with pytest.raises(ConfigError, match="each of the 2 rows of the head has a label of its own"):
            save_classifier(TextClassifier(Llama(LlamaConfig(27, **SIZES)), 2), tmp_path / "none", others)  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


def test_a_head_of_another_shape_is_refused(tmp_path: Path) -> None:
    save_classifier(TextClassifier(Llama(LlamaConfig(27, **SIZES)), 2), tmp_path, ("bad", "good"))
    tensors = {name: np.array(array) for name, array in read_tensors(tmp_path).items()}
    C = tensors["score.weight"].shape[1]
    for shape in ((), (2,), (2, C + 1), (1, C)):
        write_tensors(tmp_path, tensors | {"score.weight": np.zeros(shape, np.float32)})
        with pytest.raises(DataError, match=rf"score\.weight has shape \(labels, {C}\)"):
            load_classifier(tmp_path)


def test_labels_that_transformers_leaves_out_have_its_names(tmp_path: Path) -> None:
    """Of two labels without names it writes none."""
    save_classifier(TextClassifier(Llama(LlamaConfig(27, **SIZES)), 2), tmp_path, ("LABEL_0", "LABEL_1"))
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in values.items() if "label" not in k}))
    assert load_classifier(tmp_path)[1] == ("LABEL_0", "LABEL_1")


def test_a_classifier_with_lora_is_written_with_its_changes_merged(tmp_path: Path) -> None:
    trunk = add_lora(Llama(LlamaConfig(27, **SIZES)), 2)
    model = TextClassifier(trunk, 3).eval()
    randomize(model)
    ids, lengths = np.array([[1, 2, 3, 4]]), np.array([3])
    expected = model(ids, lengths)
    save_classifier(model, tmp_path / "new", ("a", "b", "c"))
    found, labels = load_classifier(tmp_path / "new")
    np.testing.assert_allclose(found(ids, lengths), expected, rtol=1e-4, atol=1e-5)
    assert labels == ("a", "b", "c")
    assert not found.training


def test_labels_need_a_model_to_begin_with(data: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="replaces the head of a model"):
        start_run(data, Settings.resolve("nano", None, {"task": "labels", "device": "cpu"}), tmp_path / "run")


def test_a_bert_goes_on_with_hidden_tokens(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog " * 20)
    start = start_from(saved("bert", tmp_path))
    settings = start.resolve("finetune", None, {**FEW, "steps": 2, "checkpoint_every": 2, "train_blocks": 1})
    assert settings.data.task == "masked"
    start_run(str(tmp_path / "text.txt"), settings, tmp_path / "run", model=start)
    shutil.rmtree(tmp_path / "base")
    assert 0 < evaluate_run(tmp_path / "run").metrics["loss"] < 10
    resume_run(tmp_path / "run", steps=4)
    headless = start_from(saved("bert without a head", tmp_path))
    with pytest.raises(ConfigError, match="a BERT with a head for them"):
        headless.resolve("finetune", None, {"task": "masked"})
    other = CharacterTokenizer(" abcdefghijklmnopqrstuvwxyz")
    Bert(BertConfig(27, **SIZES)).save_pretrained(tmp_path / "other", tokenizer=other)
    start = start_from(tmp_path / "other")
    with pytest.raises(ConfigError, match="a mask token has a row in the model"):
        start_run(str(tmp_path / "text.txt"), start.resolve("finetune", None, FEW), tmp_path / "b", model=start)
