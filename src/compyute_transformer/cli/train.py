"""`compyute train`: start a run or go on with one."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..data.text.labels import has_labels
from ..dispatch import use_kernels
from ..environment.launcher import started_together
from ..parallel import world
from ..training import (
    DataSettings,
    Settings,
    Start,
    load_config,
    reporter_for,
    resume_run,
    start_from,
    start_run,
    unused_name,
)
from ..training.reporting.next_steps import next_steps
from ..training.reporting.reporters import print_line, printable
from ..training.settings.presets import DEFAULT_PRESET, DESCRIPTIONS
from ..training.settings.settings import SECTIONS
from ..training.tasks.registry import name_for, preset_for
from . import terminal
from .options import Kernels, panel, with_options
from .processes import launch, leaves_for

__all__ = ["train"]

main, run, data, output = map(panel, (None, "Run", "Data", "Output"))
MAIN = (
    *("out", "preset", "steps", "batch_size", "context_length", "learning_rate", "num_layers", "num_heads"),
    *("embed_dim", "dropout", "seed", "device", "resume"),
)

NamedCorpus = Literal["builtin", "shakespeare"]
CONVERSATIONS = ".jsonl"
FINE_TUNING = "finetune"  # the preset of a run that goes on from a model
OWN_DATA = {"translation": "dates", "images": "digits"}  # the task of the same kind that needs no DATA

EPILOG = "Example: compyute train my_text.txt --preset cpu --steps 500 --out runs/mine"


@dataclass(frozen=True)
class Request:
    """What `compyute train` is asked for besides the settings of the model and of its training."""

    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA",
            help="What to train on: text files or folders of text; a .tsv file of pairs, with a tab between source and "
            "target; a folder with one folder of images for each class; or, with --from, .jsonl files of "
            "conversations. Without DATA: see --corpus and --task.",
        ),
    ] = None
    out: Annotated[
        Path | None,
        main(
            "Folder of the run. Default: runs/NAME, where NAME is that of the first DATA, or of the preset without "
            "DATA, with a number if it is taken.",
            metavar="DIR",
        ),
    ] = None
    preset: Annotated[
        str | None,
        main(
            f"Start from the settings of a preset: {', '.join(DESCRIPTIONS)}; see --list-presets. "
            f"Default: {DEFAULT_PRESET}, or translation or images where DATA are such."
        ),
    ] = None
    from_: Annotated[
        str | None,
        run(
            "Go on from a model: a directory of Hugging Face Transformers, a .gguf file, the name of a package that "
            "holds one, or the folder of a run. See --lora-rank and --train-blocks.",
            "--from",
            metavar="MODEL",
        ),
    ] = None
    resume: Annotated[
        Path | None,
        main(
            "Go on with the run in this folder from its last checkpoint. --steps then counts the steps before, too.",
            metavar="DIR",
        ),
    ] = None
    config: Annotated[
        Path | None,
        run("Read settings from this TOML file, with the sections that --show prints.", metavar="FILE.toml"),
    ] = None
    show: Annotated[bool, run("Print the settings as TOML and exit without training.", "--show")] = False
    list_presets: Annotated[bool, run("List the presets and exit.", "--list-presets")] = False
    name: Annotated[str | None, run("Name of the run's folder below --runs: --runs A --name B is --out A/B.")] = None
    runs: Annotated[Path | None, run("Folder that holds the runs without --out. Default: runs.", metavar="DIR")] = None
    corpus: Annotated[
        NamedCorpus | None,
        data(
            "Train on a text known by name instead of DATA: builtin (the Python language reference, the default) or "
            "shakespeare (downloaded once).",
            metavar="<name>",
        ),
    ] = None
    include: Annotated[
        list[str] | None,
        data(
            "Of folders, read only the files whose names match this pattern, '*.py'; may be given several times.",
            metavar="PATTERN",
        ),
    ] = None
    processes: Annotated[
        int | None,
        run("Train with this many processes on this machine, which share each batch. See --leaves.", min=1, max=1024),
    ] = None
    timeout: Annotated[
        float | None,
        run("With several processes: seconds after which one that does not answer is given up. Default: 600.", min=0.1),
    ] = None
    kernels: Kernels = "auto"
    json: Annotated[bool, output("Print one JSON object per line, for programs.", "--json")] = False


@with_options(SECTIONS.values(), MAIN)
def train(request: Request, **settings: Any) -> None:
    """Train a transformer on text, on pairs of texts, or on images; or go on with a run.

    The preset sets the defaults, a TOML file (--config) overrides it, and options override both.
    compyute train --preset cpu --show prints the settings of a preset.
    """
    if request.list_presets:
        terminal.show("".join(f"{name:<12} {about}\n" for name, about in DESCRIPTIONS.items()))
        return
    given = {key: value for key, value in settings.items() if value is not None}
    if request.processes is not None and request.processes > 1 and started_together() == 1:
        folder = request.resume or folder_of_run(request, preset_of(request, request.text or [], given))
        raise typer.Exit(launch(request.processes, folder))
    if request.timeout is not None and started_together() == 1:
        raise typer.BadParameter("--timeout is for several processes, and this is one: leave it out.")
    sources = matching(request.text or ([request.corpus] if request.corpus else []), request.include or [])
    start = None if request.from_ is None else start_from(request.from_)
    if request.resume is None:
        chosen, folder = new_run(request, sources, given, start)
    else:
        chosen, folder = resumed_run(request, request.resume, sources, given)
    if request.show:
        terminal.show(chosen.to_toml())
        return
    processes = world(request.timeout or 600.0)
    reporter = reporter_for(sys.stdout, request.json)
    with use_kernels(request.kernels):
        if request.resume is None:
            result = start_run(sources, chosen, folder, reporter, model=start, communicator=processes)
        else:
            result = resume_run(folder, reporter, overrides=given, communicator=processes)
    if not request.json:
        print_line(sys.stdout, printable(next_steps(result), sys.stdout))
    if result.interrupted:
        raise typer.Exit(terminal.INTERRUPTED)


def new_run(request: Request, sources: list[str], given: dict[str, Any], start: Start | None) -> tuple[Settings, Path]:
    """Return the settings and the folder of a new run. given: settings from the command line."""
    check_choices(request)
    if request.text and (task := given.get("task")) in OWN_DATA.values():
        other = next(name for name, own in OWN_DATA.items() if own == task)
        raise typer.BadParameter(
            f"--task {task} has its own data, got {request.text[0]}: leave DATA out, or give --task {other}, which "
            "reads them."
        )
    if start and sources and all(source.endswith(CONVERSATIONS) for source in sources):
        given.setdefault("task", "labels" if has_labels(sources[0]) else "chat")
    preset = preset_of(request, sources, given)
    resolve = start.resolve if start else Settings.resolve
    chosen = resolve(preset, request.config, given)
    if not (request.text or (request.show and not request.corpus)):
        check_own_data(chosen.data, request.corpus)
    if started_together() > 1 and "leaves" not in given:
        chosen = chosen.with_overrides({"leaves": leaves_for(chosen.training, started_together())})
    return chosen, folder_of_run(request, preset)


def preset_of(request: Request, sources: list[str], given: dict[str, Any]) -> str:
    """Return the name of the preset of a new run."""
    return request.preset or (FINE_TUNING if request.from_ else preset_for(given.get("task"), sources))


def folder_of_run(request: Request, preset: str) -> Path:
    """Return the folder of a new run."""
    if request.out is not None:
        return request.out
    runs = Path("runs") if request.runs is None else request.runs
    return runs / (request.name or unused_name(runs, name_for(request.text or (), preset)).name)


def resumed_run(request: Request, run: Path, sources: list[str], given: dict[str, Any]) -> tuple[Settings, Path]:
    """Return the settings and the folder of a run that goes on; refuse what the run itself decides."""
    places = (request.out, request.name, request.runs, request.from_)
    if sources or request.include or request.preset or request.config or any(each is not None for each in places):
        raise typer.BadParameter("--resume takes data, model, preset, config and folder from the run: leave them out.")
    return load_config(run).settings.with_overrides(given), run


def matching(sources: list[str], patterns: list[str]) -> list[str]:
    """Return the sources, where each folder is replaced by the patterns of the files to be read below it."""
    for pattern in patterns:
        if "/" in pattern or not pattern:
            raise typer.BadParameter(f"--include matches names of files, such as '*.py', got {pattern!r}.")
    if patterns and not any(Path(source).is_dir() for source in sources):
        raise typer.BadParameter("--include chooses files of folders, and no DATA is one: leave it out.")
    return (
        [
            str(Path(source) / "**" / pattern) if Path(source).is_dir() else source
            for source in sources
            for pattern in (patterns if patterns and Path(source).is_dir() else [""])
        ]
        if patterns
        else sources
    )


def check_choices(request: Request) -> None:
    """Refuse options that exclude each other, and a name that is no folder's."""
    name = request.name
    if request.corpus and request.text:
        raise typer.BadParameter("a run is trained on DATA or on --corpus, not on both: leave one of them out.")
    for option in ("name", "runs"):
        if request.out is not None and getattr(request, option) is not None:
            raise typer.BadParameter(
                f"--out is the whole folder of a run, which --{option} would name too: leave one out."
            )
    if name is not None and (name in ("", "..") or name != Path(name).name or "\\" in name):
        raise typer.BadParameter(f"--name must be the name of one folder, such as my-run, got {name!r}.")


def check_own_data(data: DataSettings, corpus: str | None) -> None:
    """Refuse a task that needs DATA where there are none, and a corpus of text for a task without text."""
    if corpus and data.kind not in ("language", "masked"):
        raise typer.BadParameter(f"--corpus names a text, which --task {data.task} does not read: leave one out.")
    if not corpus and data.task in OWN_DATA:
        raise typer.BadParameter(f"the task {data.task} needs DATA; --task {OWN_DATA[data.task]} has its own.")
