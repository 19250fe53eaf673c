"""An error of the command names a remedy for the command, and a command that fails leaves nothing behind."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from command_helpers import TEXT, TINY

from compyute_transformer import cli
from compyute_transformer.data import CharacterTokenizer
from compyute_transformer.exchange import save_compyute
from compyute_transformer.models import GPT, Bert, BertConfig, GPTConfig, ViT, ViTConfig

Fails = Callable[..., str]


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run the command, which fails, and return its message without boxes and line ends."""

    def message(*arguments: object) -> str:
        capsys.readouterr()
        assert call(*arguments)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        return " ".join(re.sub(r"[│╭╮╰╯─]", " ", captured.err).split())

    return message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs that learned a text, owl and llama, and pairs of texts, pairs."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "owl.txt").write_text(TEXT)
    (folder / "pairs.tsv").write_text(
        "".join(f"{'ab' * (i % 4 + 1)}{'c' * (i % 7)}\tx{'y' * (i % 5)}\n" for i in range(40))
    )
    tiny = ["--steps", "1", "--sample-every", "0", *TINY]
    assert not call("train", folder / "owl.txt", "--out", folder / "owl", *tiny)
    llama = ["--preset", "llama", "--num-kv-heads", "2", "--tokenizer", "bpe", "--vocab-size", "270"]
    assert not call("train", folder / "owl.txt", "--out", folder / "llama", *llama, *tiny)
    assert not call("train", folder / "pairs.tsv", "--out", folder / "pairs", "--tokenizer", "characters", *tiny)
    return folder


# --- convert ---


def test_a_run_without_lora_has_no_adapter(fails: Fails, folder: Path, tmp_path: Path) -> None:
    for run in ("owl", "pairs"):
        message = fails("convert", folder / run, tmp_path / "out", "--adapter")
        assert "trained all its weights. Leave it out, or train LoRA: compyute train DATA --from MODEL" in message
    assert "a directory of PEFT" in fails("convert", folder / "owl", tmp_path / "out.gguf", "--adapter")
    assert not list(tmp_path.iterdir())


def test_a_run_with_lora_has_an_adapter(folder: Path, tmp_path: Path) -> None:
    assert not call("convert", folder / "owl", tmp_path / "owl")
    options = ["--from", tmp_path / "owl", "--lora-rank", 2, "--steps", 1, "--out", tmp_path / "run"]
    assert not call("train", folder / "owl.txt", *options)
    assert not call("convert", tmp_path / "run", tmp_path / "adapter", "--adapter")
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


@pytest.mark.parametrize("name", ["out", "out.gguf"])
def test_a_run_that_no_other_program_has_is_not_converted(
    fails: Fails, folder: Path, tmp_path: Path, name: str
) -> None:
    message = fails("convert", folder / "pairs", tmp_path / name)
    assert f"{folder / 'pairs'} is a transformer. It stays a run" in message
    assert Path(message.rpartition(" ")[2]).is_file()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("run", "name", "dtype", "place"),
    [
        ("owl", "out", "q8_0", "a .gguf file"),
        ("llama", "out.gguf", "bfloat16", "a directory"),
        ("llama", "out.gguf", "float64", "a directory"),
    ],
)
def test_a_dtype_that_a_file_has_not_leaves_nothing(
    fails: Fails, folder: Path, tmp_path: Path, run: str, name: str, dtype: str, place: str
) -> None:
    message = fails("convert", folder / run, tmp_path / name, "--dtype", dtype)
    assert f"--dtype {dtype} is of {place}, got" in message
    assert "give an OUT of that kind, or another dtype" in message
    assert not list(tmp_path.iterdir())


def test_a_gguf_file_needs_its_folder(fails: Fails, folder: Path, tmp_path: Path) -> None:
    message = fails("convert", folder / "llama", tmp_path / "models" / "out.gguf")
    assert "OUT is a file in a folder that exists" in message
    assert "make its folder first" in message


def test_heads_that_a_file_says_are_not_changed_and_others_are_asked_for(
    fails: Fails, folder: Path, tmp_path: Path
) -> None:
    assert not call("convert", folder / "owl", tmp_path / "owl")
    message = fails("convert", tmp_path / "owl", tmp_path / "out", "--num-heads", 4)
    assert "--num-heads is of files that do not say it" in message
    assert not (tmp_path / "out").exists()
    save_compyute(GPT(GPTConfig(29, context_length=8, embed_dim=12, num_heads=3, num_layers=1)), tmp_path / "gpt.cp")
    message = fails("generate", tmp_path / "gpt.cp")
    assert "make a directory of it, which says so: compyute convert FILE DIR --num-heads N" in message
    assert not call("convert", tmp_path / "gpt.cp", tmp_path / "three", "--num-heads", 3)


# --- plot and embed ---


def test_the_losses_of_no_run_are_not_drawn(fails: Fails, folder: Path) -> None:
    for path in (folder / "nope", folder / "owl.txt"):
        message = fails("plot", path)
        assert f"holds a log.jsonl, got '{path}' without one" in message
        assert "Check the path, or start a run: compyute train" in message


def test_what_has_no_vectors_is_not_embedded(fails: Fails, folder: Path, tmp_path: Path) -> None:
    for path in ("owl", "nope"):
        message = fails("embed", folder / path, folder / "owl.txt")
        assert "give one, or make one of a run that learned hidden tokens: compyute convert RUN DIR" in message
    vit = ViTConfig(4, 4, 1, 2, patch_size=2, embed_dim=8, num_heads=2, num_layers=1)
    ViT(vit).save_pretrained(tmp_path / "vit")
    assert not call("convert", folder / "owl", tmp_path / "gpt")
    for name in ("vit", "gpt"):
        message = fails("embed", tmp_path / name, folder / "owl.txt")
        assert f"a Bert gives vectors of texts, got a {'ViT' if name == 'vit' else 'GPT'}" in message
        assert "Give the directory of a BERT" in message


def test_an_embedding_needs_texts_and_a_place(fails: Fails, folder: Path, tmp_path: Path) -> None:
    bert = BertConfig(29, context_length=16, embed_dim=8, num_heads=2, num_layers=1)
    Bert(bert).save_pretrained(tmp_path / "bert", tokenizer=CharacterTokenizer.train(TEXT))
    (tmp_path / "empty.txt").write_text("\n \n")
    assert "got none. Give a line of text" in fails("embed", tmp_path / "bert", tmp_path / "empty.txt")
    assert "there is no nope.txt. Check the path" in fails("embed", tmp_path / "bert", "nope.txt")
    message = fails("embed", tmp_path / "bert", folder / "owl.txt", "--out", tmp_path / "vectors" / "x.npy")
    assert "--out names a file in a folder that exists" in message


# --- train, generate, and runs that are none ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--architecture", "llama"),
            "Leave it out, choose another one, or begin with a preset of llama: --preset llama",
        ),
        (("--task", "masked"), "must be bert, got gpt. Choose one that learns it, or begin with a preset of bert"),
    ],
)
def test_an_architecture_that_the_preset_does_not_fit_names_one(
    fails: Fails, folder: Path, tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    assert message in fails("train", folder / "owl.txt", "--out", tmp_path / "run", *options)
    assert not call("train", folder / "owl.txt", "--preset", message.rpartition(" ")[2], "--show")
    assert not list(tmp_path.iterdir())


def test_a_choice_is_one_of_several(fails: Fails, folder: Path) -> None:
    message = fails("generate", folder / "owl", "--prompt", "The ", "--choices", "owl")
    assert "got 1 choices behind 4 tokens. Give other choices, or a shorter prompt." in message


def test_a_published_model_is_no_run(fails: Fails, folder: Path, tmp_path: Path) -> None:
    assert not call("convert", folder / "owl", tmp_path / "gpt")
    remedy = f"compyute train DATA --from {tmp_path / 'gpt'}"
    for arguments in (
        ("summary",),
        ("explain", "--prompt", "The"),
        ("predict", folder / "owl.txt"),
        ("train", "--resume"),
    ):
        command, *others = arguments
        message = (
            fails(command, *others, tmp_path / "gpt")
            if command == "train"
            else fails(command, tmp_path / "gpt", *others)
        )
        assert f"{tmp_path / 'gpt'} holds a published model" in message
        assert remedy in message


def test_a_published_model_that_writes_no_text_says_what_it_does(fails: Fails, folder: Path, tmp_path: Path) -> None:
    ViT(ViTConfig(4, 4, 1, 2, patch_size=2, embed_dim=8, num_heads=2, num_layers=1)).save_pretrained(tmp_path / "vit")
    Bert(BertConfig(29, context_length=16, embed_dim=8, num_heads=2, num_layers=1)).save_pretrained(tmp_path / "bert")
    assert "Use it in Python: AutoModel.from_pretrained" in fails("generate", tmp_path / "vit")
    assert f"compyute embed {tmp_path / 'bert'}" in fails("generate", tmp_path / "bert").replace("/ ", "/")
    for name, learned in (("vit", "images"), ("bert", "masked")):
        message = fails("eval", tmp_path / name, folder / "owl.txt")
        assert f"a published model that continues texts is evaluated, got one that learned {learned}" in message


def test_a_file_is_no_run(fails: Fails, folder: Path) -> None:
    message = fails("train", "--resume", folder / "owl.txt")
    assert f"there is none in {folder / 'owl.txt'}. Check the path, or start a run" in message


def test_a_prediction_needs_an_input(fails: Fails, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    assert "got none. Give a line." in fails("predict", folder / "pairs", tmp_path / "empty.txt")
