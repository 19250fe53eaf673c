"""The command: a text becomes a run, a run becomes text, and whatever goes wrong is one message and an exit code."""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from command_helpers import TEXT, TINY, environment, without_notice

from compyute_transformer import __version__, cli
from compyute_transformer.cli import terminal
from compyute_transformer.cli.train import train as train_command
from compyute_transformer.data.text.corpus import NAMED
from compyute_transformer.environment.products import fastest_precision
from compyute_transformer.generation.text import TextStream
from compyute_transformer.training import Settings, load_run
from compyute_transformer.training.reporting.journal import read_log
from compyute_transformer.training.settings.presets import DEFAULT_PRESET, PRESETS
from compyute_transformer.training.settings.settings import KINDS, SECTION_OF

COMMANDS = (
    *("train", "generate", "chat", "convert", "embed", "eval", "explain"),
    *("plot", "summary", "verify", "grade", "bench", "doctor"),
)


@dataclass
class Done:
    code: int | None
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process."""

    def call(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = left.value.code
        return Done(0 if code is None else int(code), captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 30 good steps, and one that was much too long: the best checkpoint is not the last."""
    folder = tmp_path_factory.mktemp("cli")
    text = folder / "owl.txt"
    text.write_text(TEXT)
    for arguments in (
        [str(text), "--runs", str(folder), "--name", "owl", "--steps", "30", *TINY],
        ["--resume", str(folder / "owl"), "--steps", "31", "--learning-rate", "1", "--decay", "constant"],
    ):
        with pytest.raises(SystemExit) as left:
            cli.main(["train", *arguments])
        assert not left.value.code
    return folder / "owl"


def process(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "compyute_transformer", *map(str, arguments)]


MAIN = [
    *("out", "preset", "steps", "batch-size", "context-length", "learning-rate", "num-layers", "num-heads"),
    *("embed-dim", "dropout", "seed", "device", "resume"),
]

# --- help ---


def plain(text: str) -> str:
    """Without escape codes, boxes and line ends."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", text).split())


def test_help_names_every_command(run: Run) -> None:
    done = run("--help")
    assert done.code == 0
    for command in COMMANDS:
        assert command in done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run: Run, command: str) -> None:
    done = run(command, "-h")
    assert done.code == 0
    assert plain(done.out).startswith(f"Usage: compyute {command} [OPTIONS]")


def test_the_help_of_train_has_panels_and_every_preset(run: Run) -> None:
    text = plain(run("train", "--help").out)
    panels = [text.index(f" {panel} --") for panel in ("Options", "Run", "Data", "Model", "Training", "Output")]
    assert panels == sorted(panels)
    first = text[panels[0] : panels[1]]
    assert [name for name in re.findall(r"--([a-z-]+) (?:<|DIR|-h)", first) if name in MAIN] == MAIN
    assert f"Default: {DEFAULT_PRESET}" in text
    for preset in PRESETS:
        assert preset in text


def test_the_help_of_train_names_every_choice_and_breaks_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("train", "--help").out
    words = set(re.findall(r"\w+", shown))
    for name in SECTION_OF:
        assert f"--{name.replace('_', '-')} " in shown, name
    for name, kind in get_type_hints(train_command).items():
        for option in parts(kind):
            if isinstance(option, str):
                assert option in words, (name, option)


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(process("--version"), capture_output=True, text=True, check=True)
    assert done.stdout == f"compyute-transformer {__version__}\n"
    done = subprocess.run(process("--help"), capture_output=True, text=True, check=True)
    assert "Usage: compyute [OPTIONS]" in done.stdout


def test_without_anything_it_is_the_help(run: Run) -> None:
    done = run()
    assert "Start with: compyute train" in done.out + done.err


def test_the_version_is_the_packages(run: Run) -> None:
    done = run("--version")
    assert (done.code, done.out) == (0, f"compyute-transformer {__version__}\n")


def test_help_loads_nothing_heavy() -> None:
    script = "import sys; from compyute_transformer.cli import app; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "typer" in modules
    assert not {"numba", "scipy", "tokenizers", "pooch", "torch", "tensorboardX", "cupy"} & set(modules)


# --- flags and settings are one list ---


def flags() -> dict[str, Any]:
    """Each parameter of `train` that is a setting, with its type."""
    hints = get_type_hints(train_command)
    return {name: kind for name, kind in hints.items() if name in SECTION_OF}


def parts(kind: Any) -> set[Any]:
    """The alternatives of a type, without None; a Literal is its choices."""
    options = (kind,) if get_origin(kind) is Literal or not get_args(kind) else get_args(kind)
    choices = (get_args(option) if get_origin(option) is Literal else (option,) for option in options)
    return {choice for group in choices for choice in group} - {NoneType}


def test_every_setting_has_a_flag_of_its_type() -> None:
    assert set(flags()) == set(SECTION_OF)
    for name, kind in flags().items():
        setting = KINDS[SECTION_OF[name]][name]
        if kind is Any:  # a number or "none"
            assert NoneType in get_args(setting), name
        else:
            assert parts(kind) == parts(setting), name


def test_every_named_corpus_can_be_asked_for() -> None:
    assert parts(get_type_hints(train_command)["corpus"]) == set(NAMED)


# --- train ---


def test_training_ends_with_what_to_type_next(run: Run, tmp_path: Path) -> None:
    text = tmp_path / "owl.txt"
    text.write_text(TEXT)
    done = run("train", text, "--runs", tmp_path / "my runs", "--steps", 3, *TINY)
    assert done.code == 0
    folder = tmp_path / "my runs" / "owl"
    assert (folder / "config.json").is_file()
    assert f"compyute generate '{folder}' --prompt" in done.out
    assert f"compyute eval '{folder}'" in done.out
    assert f"compyute train --resume '{folder}' --steps 6" in done.out
    assert run("train", text, "--runs", tmp_path / "my runs", "--steps", 1, *TINY).code == 0
    assert (tmp_path / "my runs" / "owl-2" / "config.json").is_file()


def test_flags_reach_the_settings_and_override_the_file(run: Run, tmp_path: Path) -> None:
    text, toml = tmp_path / "owl.txt", tmp_path / "my.toml"
    text.write_text(TEXT)
    toml.write_text("[training]\nlearning_rate = 0.5\nbeta1 = 0.5\n")
    given = ["--steps", 1, "--learning-rate", 0.25, "--clip", "none", "--no-bias", "--mlp-dim", 8, "--decay", "linear"]
    assert run("train", text, "--runs", tmp_path, "--preset", "cpu", "--config", toml, *TINY, *given).code == 0
    settings = json.loads((tmp_path / "owl" / "config.json").read_text())["settings"]
    training, model = settings["training"], settings["model"]
    assert (training["learning_rate"], training["beta1"], training["beta2"]) == (0.25, 0.5, 0.99)
    assert (training["clip"], training["decay"]) == (None, "linear")
    assert (model["bias"], model["mlp_dim"], model["activation"]) == (False, 8, "gelu")


def test_json_is_one_object_a_line_and_nothing_else(run: Run, tmp_path: Path) -> None:
    text = tmp_path / "owl.txt"
    text.write_text(TEXT)
    done = run("train", text, "--runs", tmp_path, "--steps", 3, "--json", *TINY)
    events = [json.loads(line) for line in done.out.splitlines()]
    assert events[0]["event"] == "started"
    assert events[-1]["event"] == "finished"
    assert events[-1]["step"] == 3
    assert done.err == ""


def test_a_run_goes_on(run: Run, trained: Path) -> None:
    done = run("train", "--resume", trained, "--steps", 33, "--json")
    assert done.code == 0
    assert json.loads(done.out.splitlines()[-1])["step"] == 33


def test_a_precision_is_saved_with_the_run(run: Run, trained: Path, tmp_path: Path) -> None:
    text, options = trained.parent / "owl.txt", ["--steps", 4, "--eval-every", 2, *TINY]
    assert run("train", text, "--out", tmp_path / "run", "--precision", "bfloat16", *options).code == 0
    assert load_run(tmp_path / "run").model.precision == "bfloat16"
    assert (load_run(trained).model.precision or "float32") == fastest_precision("cpu"), "what auto stood for"
    losses = {
        entry["step"]: entry["validation_loss"] for entry in read_log(tmp_path / "run") if "validation_loss" in entry
    }
    found = json.loads(run("eval", tmp_path / "run", "--checkpoint", "last", "--json").out)
    assert found["loss"] == losses[4], "evaluation computes as the validation did"
    assert run("generate", tmp_path / "run", "--max-new-tokens", 5).code == 0
    assert run("explain", tmp_path / "run", "--prompt", "owl", "--out", tmp_path / "page.html").code == 0
    done = run("train", text, "--out", tmp_path / "tf32", "--precision", "tf32", *options)
    assert done.code != 0
    assert "tf32 is of the tensor cores of a GPU" in " ".join(done.err.split())
    assert run("train", "--resume", tmp_path / "run", "--steps", 5).code == 0
    assert load_run(tmp_path / "run", "last").model.precision == "bfloat16"


def test_a_byte_pair_run_writes_whole_characters(run: Run, tmp_path: Path) -> None:
    text = tmp_path / "owl.txt"
    text.write_text(TEXT.replace("beautiful", "prächtig — 美しい"), encoding="utf-8")
    options = ["--tokenizer", "bpe", "--vocab-size", 280, "--steps", 2, "--sample-every", 0]
    assert run("train", text, "--runs", tmp_path, *options, *TINY).code == 0
    done = run("generate", tmp_path / "owl", "--prompt", "Füße 美", "--max-new-tokens", 9, "--json")
    assert json.loads(done.out)["tokens"] == 9


def test_a_finished_run_has_nothing_left_to_do(run: Run, trained: Path) -> None:
    steps = json.loads((trained / "config.json").read_text())["settings"]["training"]["steps"]
    done = run("train", "--resume", trained)
    assert done.code == 0
    assert f"Nothing is left to do: all {steps} steps were taken before." in done.out
    assert done.out.endswith(f"compyute train --resume {trained} --steps {2 * steps}\n")


def test_settings_are_shown_and_nothing_is_trained(run: Run, trained: Path, tmp_path: Path) -> None:
    done = run("train", "--runs", tmp_path / "runs", "--preset", "cpu", "--steps", 7, "--show")
    assert done.code == 0
    assert not (tmp_path / "runs").exists()
    (tmp_path / "shown.toml").write_text(done.out)
    assert Settings.resolve("seed", tmp_path / "shown.toml") == Settings.resolve("cpu", overrides={"steps": 7})
    saved = tomllib.loads(run("train", "--resume", trained, "--batch-size", 9, "--show").out)
    assert (saved["model"]["embed_dim"], saved["training"]["batch_size"]) == (16, 9)


def test_without_data_a_run_is_named_after_its_preset(run: Run, tmp_path: Path) -> None:
    assert run("train", "--runs", tmp_path, "--steps", 1, "--sample-every", 0, *TINY).code == 0
    assert (tmp_path / DEFAULT_PRESET / "config.json").is_file()


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_a_reader_that_goes_away_ends_no_run(tmp_path: Path, json_too: list[str]) -> None:
    text = tmp_path / "owl.txt"
    text.write_text(TEXT)
    options = ["--runs", tmp_path, "--steps", 60, "--log-every", 1, *json_too, *TINY]
    with subprocess.Popen(process("train", text, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        err = running.stderr.read()
    assert (running.returncode, without_notice(err.decode())) == (0, "")
    log = (tmp_path / "owl" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log if '"step", ' in line or '"event": "step"' in line][-1] == 60


def test_a_second_interrupt_says_how_to_go_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient:
        def report(self, event: object) -> None:
            if getattr(event, "name", "") == "advanced":
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

        def close(self) -> None:
            pass

    monkeypatch.setattr("compyute_transformer.cli.train.reporter_for", lambda *given: Impatient())
    text = tmp_path / "owl.txt"
    text.write_text(TEXT)
    done = run("train", text, "--runs", tmp_path, "--steps", 3, *TINY)
    assert done.code == 130
    assert "Stopped at once, after step 1. Last checkpoint: step 0, " in done.err
    assert done.err.endswith(f"compyute train --resume {tmp_path / 'owl'}\n")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "a/", "a\\b", "/x"])
def test_a_name_is_that_of_one_folder(run: Run, tmp_path: Path, name: str) -> None:
    done = run("train", "--runs", tmp_path / "runs", "--name", name, "--steps", 1, *TINY)
    assert done.code == 2
    assert "--name must be the name of one folder" in plain(done.err)
    assert not list(tmp_path.iterdir())


def test_data_and_a_named_corpus_are_one_too_many(run: Run) -> None:
    done = run("train", "some.txt", "--corpus", "builtin")
    assert done.code == 2
    assert "DATA or on --corpus, not on both" in plain(done.err)


@pytest.mark.parametrize(
    "extra", [["some.txt"], ["--corpus", "builtin"], ["--preset", "nano"], ["--name", "other"], ["--name", ""]]
)
def test_what_a_run_has_already_cannot_be_given_again(run: Run, trained: Path, extra: list[str]) -> None:
    done = run("train", "--resume", trained, *extra)
    assert done.code == 2
    assert "leave them out" in plain(done.err)


def test_an_interrupted_run_says_how_to_go_on_and_does(tmp_path: Path) -> None:
    text = tmp_path / "owl.txt"
    text.write_text(TEXT)
    command = process("train", text, "--runs", tmp_path, "--name", "long", "--steps", 10**6, "--log-every", 1, *TINY)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert any(line.startswith("step      2") for line in running.stdout)
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    step = re.search(r"Interrupted at step ([\d,]+)", out)
    assert step
    assert f"compyute train --resume {tmp_path / 'long'}" in out
    steps = int(step[1].replace(",", "")) + 1
    resumed = subprocess.run(
        process("train", "--resume", tmp_path / "long", "--steps", steps, "--json"), capture_output=True, text=True
    )
    assert json.loads(resumed.stdout.splitlines()[-1])["step"] == steps


def test_a_pipe_gets_plain_lines(tmp_path: Path) -> None:
    text = tmp_path / "owl.txt"
    text.write_text(TEXT)
    command = process("train", text, "--runs", tmp_path, "--steps", 2, *TINY)
    done = subprocess.run(command, capture_output=True, check=True, env=environment())
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"\r" not in done.stdout.replace(os.linesep.encode(), b"\n")
    assert b"validation loss" in done.stdout


@pytest.mark.parametrize("option", [["--out", "a/b"], ["--runs", "a", "--name", "b"]])
def test_out_is_the_folder_of_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("owl.txt").write_text(TEXT)
    assert run("train", "owl.txt", *option, "--steps", 1, *TINY).code == 0
    assert (tmp_path / "a" / "b" / "config.json").is_file()
    done = run("train", "owl.txt", "--out", "a/b", "--steps", 1, *TINY)
    assert done.code == 1
    assert "a/b holds a run" in done.err
    assert run("train", "owl.txt", "--out", "c", "--name", "d", *TINY).code == 2


def test_the_presets_are_listed(run: Run) -> None:
    done = run("train", "--list-presets")
    assert [line.split()[0] for line in done.out.splitlines()] == list(PRESETS)


def test_the_reference_kernels_run_the_readable_code(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path
) -> None:
    (tmp_path / "owl.txt").write_text(TEXT)
    options = ["train", tmp_path / "owl.txt", "--steps", 1, "--sample-every", 0, *TINY]
    assert "reference ops" not in run(*options, "--out", tmp_path / "a").out
    assert "reference ops" in run(*options, "--out", tmp_path / "b", "--kernels", "reference").out
    monkeypatch.setenv("COMPYUTE_KERNELS", "reference")
    assert "reference ops" in run(*options, "--out", tmp_path / "c").out


@pytest.mark.parametrize(
    ("theirs", "ours"), [("--lr", "--learning-rate"), ("--gpu", "--device"), ("--iters", "--steps")]
)
def test_the_options_of_other_programs_suggest_ours(run: Run, theirs: str, ours: str) -> None:
    done = run("train", theirs, "1")
    assert done.code == 2
    assert f"No such option: {theirs} (Possible options: {ours})" in plain(done.err)


# --- generate ---


def test_generated_text_follows_the_prompt(run: Run, trained: Path) -> None:
    first = run("generate", trained, "--prompt", "The owl", "--max-new-tokens", 30)
    assert first.code == 0
    assert first.out.startswith("The owl")
    assert len(first.out) == len("The owl") + 30 + 1
    assert re.fullmatch(r"30 tokens, [\d,]+ tokens/s, step \d+, seed 0\n", first.err)
    assert run("generate", trained, "--prompt", "The owl", "--max-new-tokens", 30).out == first.out
    assert run("generate", trained, "--prompt", "The owl", "--max-new-tokens", 30, "--seed", 1).out != first.out


def test_the_first_token_is_there_before_the_prompt_is_shown(
    run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # what is said while kernels are compiled would else continue the line of the prompt
    events: list[str] = []
    following, show = TextStream.__next__, terminal.show
    monkeypatch.setattr(TextStream, "__next__", lambda pieces: events.append("token") or following(pieces))
    monkeypatch.setattr(terminal, "show", lambda text: events.append("text") or show(text))
    assert run("generate", trained, "--prompt", "The owl", "--max-new-tokens", 3).out.startswith("The owl")
    assert events[:4] == ["token", "text", "text", "token"]


def test_generated_json_says_how_it_came_about(run: Run, trained: Path) -> None:
    options = ["--prompt", "The ", "--max-new-tokens", 40, "--temperature", 1.2, "--top-k", 20, "--top-p", 0.95]
    facts = json.loads(run("generate", trained, *options, "--json").out)
    assert facts["prompt"] + facts["text"] + "\n" == run("generate", trained, *options).out
    assert (facts["tokens"], facts["seed"], facts["stopped"]) == (40, 0, False)
    assert facts["tokens_per_second"] > 0
    stop = facts["text"][10:12]
    stopped = json.loads(run("generate", trained, *options, "--stop", "never", "--stop", stop, "--json").out)
    assert stopped["stopped"]
    assert stopped["text"] == facts["text"][: facts["text"].find(stop)]


def test_a_prompt_may_come_from_a_file(run: Run, trained: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_bytes(b"The owl\r\nand ")
    done = run("generate", trained, "--prompt", f"FILE:{prompt}", "--max-new-tokens", 5)
    assert done.out.startswith("The owl\nand ")


def test_an_empty_prompt_and_one_longer_than_the_context_serve(run: Run, trained: Path) -> None:
    assert len(run("generate", trained, "--max-new-tokens", 7).out) == 8
    assert len(run("generate", trained, "--prompt", TEXT, "--max-new-tokens", 7).out) == len(TEXT) + 8


def test_the_checkpoint_may_be_chosen(run: Run, trained: Path) -> None:
    def step(*options: str) -> int:
        return int(json.loads(run("generate", trained, "--json", "--max-new-tokens", 1, *options).out)["step"])

    assert step() == step("--checkpoint", "best") == 30
    assert step("--checkpoint", "last") > 30
    losses = [
        json.loads(run("eval", trained, "--checkpoint", which, "--json").out)["loss"] for which in ("best", "last")
    ]
    assert losses[0] < losses[1]


def test_sampling_options_reach_the_sampler(run: Run, trained: Path) -> None:
    greedy = run("generate", trained, "--temperature", 0).out
    assert run("generate", trained, "--top-k", 1).out == greedy
    assert run("generate", trained, "--top-p", 1e-9).out == greedy
    assert run("generate", trained, "--min-p", 1).out == greedy
    assert run("generate", trained, "--temperature", 0, "--repetition-penalty", 3).out != greedy
    assert run("generate", trained).out != greedy


def test_escapes_in_prompts_and_stop_texts_are_line_ends(run: Run, trained: Path, tmp_path: Path) -> None:
    def facts(*options: object) -> Any:
        return json.loads(run("generate", trained, "--max-new-tokens", 80, "--json", *options).out)

    typed, real = facts("--stop", r"\n", "--temperature", 3), facts("--stop", "\n", "--temperature", 3)
    assert typed["stopped"]
    assert typed["text"] == real["text"]
    assert facts("--prompt", r"The\nowl")["prompt"] == "The\nowl"
    assert run("generate", trained, "--prompt", r"The\\nowl").err.count("lacks") == 1  # a backslash, which is unknown
    (tmp_path / "prompt.txt").write_text("The owl\n")
    assert facts("--prompt", f"FILE:{tmp_path / 'prompt.txt'}") | {"tokens_per_second": 0} == facts(
        "--prompt", "The owl"
    ) | {"tokens_per_second": 0}


@pytest.mark.parametrize("exponent", range(5, 21))
def test_numbers_without_bounds_end_in_one_sentence(
    run: Run, trained: Path, tmp_path: Path, exponent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owl.txt").write_text(TEXT)
    others = ("context-length", "batch-size", "sample-tokens", "vocab-size") if exponent > 6 else ()
    for option in ("embed-dim", "num-layers", *others):
        done = run("train", "owl.txt", f"--{option}", 10**exponent + 1, "--steps", 1, "--tokenizer", "bpe")
        assert done.code == 1, option
        assert re.fullmatch(r"Error: [^\n]{,500}\n", done.err), option
        assert not (tmp_path / "runs").exists()


def test_without_the_cache_the_text_is_the_same(run: Run, trained: Path) -> None:
    def text(*options: object) -> str:
        return run("generate", trained, "--max-new-tokens", 40, "--prompt", "The owl", *options).out

    assert text("--no-cache") == text()
    assert text("--no-cache", "--stride", 8) == text("--stride", 8)


def test_the_cache_is_used_unless_it_is_refused(run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compyute_transformer.generation import decode

    steps: list[object] = []
    monkeypatch.setattr(decode, "step", lambda *given: steps.append(given) or pytest.fail("a step"))
    assert run("generate", trained, "--max-new-tokens", 3, "--no-cache").code == 0
    with pytest.raises(pytest.fail.Exception, match="a step"):
        cli.main(["generate", str(trained), "--max-new-tokens", "3"])
    assert len(steps) == 1


def test_the_attention_of_the_prompt_is_drawn(run: Run, trained: Path, tmp_path: Path) -> None:
    picture = tmp_path / "owl.png"
    done = run("generate", trained, "--prompt", "The owl", "--max-new-tokens", 2, "--attention", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert done.err.endswith(f"attention: {picture}\n")
    assert run("generate", trained, "--prompt", TEXT, "--max-new-tokens", 0, "--attention", picture).code == 0
    assert run("generate", trained, "--max-new-tokens", 0, "--attention", picture).code == 0


def test_text_is_shown_as_it_comes(run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(terminal, "show", shown.append)
    run("generate", trained, "--prompt", "The", "--max-new-tokens", 12)
    assert shown[0] == "The"
    assert [len(piece) for piece in shown[1:]] == [1] * 13


# --- eval and doctor ---


def test_images_are_learned_evaluated_and_their_confusion_is_drawn(run: Run, tmp_path: Path) -> None:
    tiny = ["--embed-dim", 8, "--num-heads", 2, "--num-layers", 1, "--batch-size", 8, "--steps", 2, "--patch-size", 4]
    done = run("train", "--task", "digits", "--runs", tmp_path, *tiny)
    assert done.code == 0
    assert "accuracy" in done.out
    picture = tmp_path / "confusion.png"
    done = run("eval", tmp_path / "digits", "--picture", picture)
    assert "accuracy" in done.out
    assert "true \\ predicted" in done.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    as_json = json.loads(run("eval", tmp_path / "digits", "--json").out)
    assert as_json["images"] == sum(map(sum, as_json["confusion"]["counts"])) == 359
    for options in ([], ["--beam", 2]):
        done = run("generate", tmp_path / "digits", "--prompt", "5", *options)
        assert done.code == 2
        assert "classifies images and generates no text" in plain(done.err)


def test_a_folder_of_images_is_known_for_what_it_is(run: Run, tmp_path: Path) -> None:
    from PIL import Image

    for name, shade in (("dark", 20), ("light", 220)):
        (tmp_path / "shades" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (9, 7), (shade, shade, number)).save(tmp_path / "shades" / name / f"{number}.png")
    tiny = ["--embed-dim", 8, "--num-heads", 2, "--num-layers", 1, "--batch-size", 4, "--steps", 1]
    done = run("train", tmp_path / "shades", "--runs", tmp_path, *tiny, "--image-size", 16)
    assert done.code == 0
    assert "16 × 16 × 3" in done.out
    assert run("eval", tmp_path / "shades-2", tmp_path / "shades").code == 0
    (tmp_path / "shades" / "light" / "0.png").write_bytes(b"broken")
    done = run("eval", tmp_path / "shades-2", tmp_path / "shades")
    assert done.code == 1
    assert "0.png is not" in done.err.replace("\n", "")


def test_evaluation_is_the_same_number_for_people_and_programs(run: Run, trained: Path) -> None:
    facts = json.loads(run("eval", trained, "--json").out)
    done = run("eval", trained)
    assert f"{facts['loss']:.4f} nats per token" in done.out
    assert f"{facts['bits_per_character']:.4f}" in done.out
    assert facts["tokens"] == len(TEXT) - int(len(TEXT) * 0.9) - 1
    assert facts["loss"] < 3.4  # fewer than its 27 characters in doubt


def test_a_translation_without_sacrebleu_says_so(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"{'ab' * (i % 4 + 1)}{'c' * (i % 7)}\tx{'y' * (i % 5)}\n" for i in range(40)))
    options = ["--tokenizer", "characters", "--steps", 1, "--sample-every", 0, *TINY]
    assert run("train", pairs, "--runs", tmp_path, *options).code == 0
    done = run("eval", tmp_path / "pairs")
    assert "bleu" in done.out
    assert "sacreBLEU" not in done.err
    monkeypatch.setattr("compyute_transformer.training.tasks.translation.has_sacrebleu", lambda: False)
    done = run("eval", tmp_path / "pairs")
    assert "bleu" not in done.out
    assert "BLEU was left out: it needs sacreBLEU. pip install 'compyute-transformer[translation]'" in done.err


def test_other_texts_can_be_evaluated(run: Run, trained: Path, tmp_path: Path) -> None:
    text = tmp_path / "other.txt"
    text.write_text("The owl and the owl\n")
    for given in ([text], ["--data", text]):
        assert json.loads(run("eval", trained, *given, "--json").out)["tokens"] == 19


def test_the_doctor_tells_people_and_programs(run: Run) -> None:
    report = json.loads(run("doctor", "--json").out)
    assert report["machine"]["version"] == __version__
    assert isinstance(report["recommendations"], list)
    done = run("doctor")
    assert done.code == 0
    assert report["machine"]["processor"].split()[0] in done.out


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "no-such-file.txt"], "there is no .*no-such-file.txt"),
        (["train", "--preset", "nanno"], "there is no preset 'nanno'. Did you mean nano"),
        (["train", "--config", "no-such.toml"], "no-such.toml"),
        (["train", "--dropout", "1.5"], "dropout must be at least 0 and below 1"),
        (["train", "--resume", "no-such-run"], "there is none in no-such-run"),
        (["generate", "no-such-run"], "there is none in no-such-run"),
        (["eval", "no-such-run"], "there is none in no-such-run"),
        (["generate", "RUN", "--prompt", "Übel"], "lacks 'Ü'"),
        (["generate", "RUN", "--prompt", "FILE:no-such-file"], "there is no .*no-such-file"),
        (["generate", "RUN", "--top-k", "0"], "top_k is a whole number of at least 1"),
        (["generate", "RUN", "--prompt", "FILE:"], "there is no file ''"),
        (["generate", "RUN", "--attention", "no-such-folder/map.png"], "the folder of a figure exists"),
        (["generate", "RUN", "--temperature", "-1"], "temperature is a finite number"),
        (["generate", "RUN", "--min-p", "2"], "min_p lies in"),
        (["generate", "RUN", "--repetition-penalty", "0"], "repetition_penalty is a finite number above 0"),
        (["generate", "RUN", "--stride", "17"], r"stride lies in \[1, 16\]"),
        (["generate", "RUN", "--attention", "map.txt"], "the file's ending names its format"),
    ],
)
def test_our_errors_are_one_message(
    run: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*(trained if argument == "RUN" else argument for argument in arguments))
    assert done.code == 1
    assert re.match(rf"Error: .*{message}", done.err, re.DOTALL)
    assert "Traceback" not in done.err
    assert done.out == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--step", "3"], "No such option: --step .*--steps"),
        (["train", "--steps", "many"], "Invalid value for '--steps': it is a whole number"),
        (["train", "--clip", "much"], "Invalid value for '--clip'"),
        (
            ["train", "--decay", "slow"],
            "'--decay': 'slow' is not one of 'constant', 'linear', 'cosine'",
        ),
        (["generate", "RUN", "--checkpoint", "first"], "'first' is not one of 'best', 'last'"),
        (["generate"], "Missing argument 'MODEL'"),
        (["generat"], "No such command 'generat'. Did you mean 'generate'"),
    ],
)
def test_command_lines_that_cannot_be_understood_exit_with_2(run: Run, arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert re.search(message, plain(done.err))


# --- other tasks than language ---


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("translator")
    (folder / "pairs.tsv").write_text(
        "".join(f"{'ab' * (i % 4 + 1)}{'c' * (i % 7)}\tx{'y' * (i % 5)}\n" for i in range(40))
    )
    options = ["--tokenizer", "characters", "--steps", "1", "--sample-every", "0", *TINY]
    with pytest.raises(SystemExit) as left:
        cli.main(["train", str(folder / "pairs.tsv"), "--runs", str(folder), *options])
    assert not left.value.code
    return folder / "pairs"


def test_a_translation_says_how_it_came_about(run: Run, translator: Path, tmp_path: Path) -> None:
    done = run("generate", translator, "--prompt", "abc", "--max-new-tokens", 5, "--beam", 2)
    assert done.code == 0
    assert re.search(r"\d+ tokens in [\d.]+ s, step \d", done.err)
    facts = json.loads(run("generate", translator, "--prompt", "abc", "--max-new-tokens", 5, "--beam", 2, "--json").out)
    assert done.out == facts["text"] + "\n"
    assert len(facts["log_probabilities"]) == facts["tokens"] <= 5
    assert sum(facts["log_probabilities"]) == pytest.approx(facts["log_probability"])
    assert facts["tokens_per_second"] > 0
    (tmp_path / "source.txt").write_text(" abc\n")
    again = run(
        "generate", translator, "--prompt", f"FILE:{tmp_path / 'source.txt'}", "--max-new-tokens", 5, "--beam", 2
    )
    assert again.out == done.out


def test_the_attention_of_a_translation_is_drawn(run: Run, translator: Path, tmp_path: Path) -> None:
    for tokens in (4, 100):  # the last as long as the context
        done = run(
            "generate", translator, "--prompt", "abc", "--max-new-tokens", tokens, "--attention", tmp_path / "a.png"
        )
        assert done.code == 0
    for part in ("encoder", "decoder", "cross"):
        assert (tmp_path / f"a-{part}.png").read_bytes().startswith(b"\x89PNG")
        assert f"a-{part}.png" in done.err
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "option",
    [
        "--temperature=0.8",
        "--top-k=3",
        "--top-p=0.5",
        "--min-p=0.1",
        "--repetition-penalty=1",
        "--seed=0",
        "--stop=a",
    ],
)
def test_a_translation_is_searched_for_or_drawn(run: Run, translator: Path, option: str) -> None:
    for search in ("--beam=1", "--length-penalty=0.6"):
        done = run("generate", translator, "--prompt", "abc", option, search)
        assert done.code == 2
        flags = f"{search.partition('=')[0]} is an option of search, and {option.partition('=')[0]} of sampling"
        assert flags in plain(done.err)


def test_a_length_penalty_needs_answers_to_choose_among(run: Run, translator: Path) -> None:
    done = run("generate", translator, "--prompt", "abc", "--length-penalty=1")
    assert done.code == 2
    assert "--length-penalty compares the hypotheses of a beam search" in plain(done.err)


def test_a_translation_is_drawn_where_an_option_of_drawing_is_given(run: Run, translator: Path, tmp_path: Path) -> None:
    options = ["--prompt", "abc", "--max-new-tokens", 6]
    drawn = json.loads(run("generate", translator, *options, "--temperature", 3, "--seed", 4, "--json").out)
    assert drawn["tokens"] == len(drawn["log_probabilities"]) <= 6
    assert run("generate", translator, *options, "--temperature", 3, "--seed", 4).out == drawn["text"] + "\n"
    assert len({run("generate", translator, *options, "--seed", seed).out for seed in range(8)}) > 1
    greedy, found = (run("generate", translator, *options, *given).out for given in (["--stop", "#"], []))
    assert greedy == found
    picture = tmp_path / "a.png"
    done = run("generate", translator, *options, "--temperature", 0, "--attention", picture)
    assert done.out == found
    assert f"attention: {tmp_path / 'a-encoder.png'}" in done.err


def test_a_timeout_of_one_process_is_refused(run: Run) -> None:
    done = run("train", "--timeout", "3")
    assert (done.code, "leave it out" in plain(done.err)) == (2, True)


def test_a_translation_refuses_what_only_a_text_has(run: Run, translator: Path) -> None:
    done = run("generate", translator, "--prompt", "abc", "--stride=1")
    assert done.code == 2
    assert "--stride has no effect with a run that learned translation" in plain(done.err)


def test_a_text_is_continued_by_beam_search(run: Run, trained: Path) -> None:
    options = ("generate", trained, "--prompt", "The", "--max-new-tokens", 6, "--beam", 3)
    facts = json.loads(run(*options, "--json").out)
    assert len(facts["text"]) == facts["tokens"] == 6
    assert run(*options).out == f"The{facts['text']}\n"
    greedy = json.loads(run(*options[:-1], 1, "--json").out)
    plain_text = run("generate", trained, "--prompt", "The", "--max-new-tokens", 6, "--temperature", 0).out
    assert plain_text == f"The{greedy['text']}\n"
    assert facts["score"] >= greedy["score"] - 1e-6
    for more, words in (
        ("--temperature=1", "--beam is an option of search, and --temperature of sampling"),
        ("--stride=2", "--stride has no effect with --beam"),
        ("--no-cache", "--no-cache has no effect with --beam"),
    ):
        done = run(*options, more)
        assert done.code == 2
        assert words in plain(done.err)
    done = run("generate", trained, "--length-penalty=0.6")
    assert "give --beam 4" in plain(done.err)


def test_a_translation_needs_something_to_translate(run: Run, translator: Path) -> None:
    for prompt in ("", " \n"):
        done = run("generate", translator, "--prompt", prompt)
        assert done.code == 2
        assert "a translation needs a source" in plain(done.err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "images"], "the task images needs DATA; --task digits has its own"),
        (["--preset", "translation"], "the task translation needs DATA; --task dates has its own"),
        (["--task", "digits", "--corpus", "builtin"], "--corpus names a text, which --task digits does not read"),
        (["mine.txt", "--task", "dates"], "has its own data, got mine.txt: leave DATA out, or give --task translation"),
        (["mine.txt", "--task", "digits"], "has its own data, got mine.txt: leave DATA out, or give --task images"),
        (["--preset", "dates", "--corpus", "builtin", "--show"], "--corpus names a text, which --task dates does not"),
    ],
)
def test_a_task_is_given_the_data_that_it_reads(run: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run("train", *arguments, "--runs", tmp_path / "runs")
    assert done.code == 2
    assert message in plain(done.err)
    assert not (tmp_path / "runs").exists()
    assert run("train", "--task", "images", "--show").code == 0


def test_a_draft_changes_nothing_but_the_time(run: Run, trained: Path, translator: Path) -> None:
    options = ("generate", trained, "--prompt", "The owl", "--max-new-tokens", 5, "--json")
    alone, drafted = (json.loads(run(*options, *more).out) for more in ((), ("--draft", trained)))
    assert drafted["text"] == alone["text"]
    assert alone["drafted"] == 0
    assert drafted["accepted"] == drafted["drafted"] == 4
    assert "guesses right" in run(*options[:-1], "--draft", trained).err
    refused = run("generate", trained, "--draft", translator)
    assert refused.code == 2
    assert "learned translation" in plain(refused.err)
