"""The command: one table, sub-command -> function, each of which hands its options on and prints what comes back.

    compyute train | generate | eval | verify | bench | doctor

What a command needs is imported when it runs, so that `--help` is there at once. Exit codes: 0 done, 1 an error of ours
(one message, no traceback), 2 a command line that cannot be understood, 130 interrupted.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import __version__
from .bench.command import bench
from .errors import CompyuteError

if TYPE_CHECKING:
    from .training import RunResult

__all__ = ["app", "main"]

app = typer.Typer(
    name="compyute",
    help="Transformers whose every gradient is written by hand: train one on any text, and let it write.",
    epilog="Begin with: compyute train",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; always leaves by SystemExit, with the exit code."""
    try:
        app(arguments, prog_name="compyute")
    except (CompyuteError, OSError) as error:  # OSError: a disk that fills up while a log is written, say
        note(f"Error: {error}", style="red")
        sys.exit(1)


# --- options ---


def panel(name: str) -> Any:
    """A maker of options that stand together in the help."""

    def option(help: str, *names: str, **more: Any) -> Any:
        return typer.Option(*names, help=help, rich_help_panel=name, **more)

    return option


def or_none(kind: type) -> dict[str, Any]:
    """An option that takes a number, or the word "none"."""

    def parse(text: str) -> Any:
        return text if text == "none" else kind(text)

    return {"parser": parse, "metavar": f"<{kind.__name__}|none>"}


run, data, model, training, output = map(panel, ("Run", "Data", "Model", "Training", "Output"))

# What the settings allow, said again so that `--help` need not load them; a test holds the two together.
NamedCorpus = Literal["builtin", "shakespeare"]
TaskName = Literal["language", "translation", "dates", "images", "digits"]
Architecture = Literal["gpt", "vaswani", "encoder_decoder", "vit"]
TokenizerKind = Literal["characters", "bpe"]
Activation = Literal["gelu_tanh", "gelu", "relu"]
Attention = Literal["auto", "sequential", "semiparallel", "parallel", "fused"]
Optimizer = Literal["adamw", "sgd"]
Decay = Literal["constant", "linear", "cosine", "inverse_sqrt"]
Device = Literal["cpu", "cuda"]
Json = Annotated[bool, typer.Option("--json", help="JSON on the standard output, for programs.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run, such as runs/nano.")]
Checkpoint = Annotated[
    Literal["best", "last"], typer.Option(help="That with the lowest validation loss, or the latest.")
]
OnDevice = Annotated[Device, typer.Option(help="Where to compute.")]


# --- commands ---


@app.callback(invoke_without_command=True)
def about(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"compyute-transformer {__version__}")
        raise typer.Exit


@app.command()
def train(
    context: typer.Context,
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA",
            help="Text files or folders; a .tsv file of pairs; a folder of images by class. "
            "Without, see --task and --corpus.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        run(
            "Where settings start: nano (the default), cpu, shakespeare, seed, vaswani; dates, translation; digits, "
            "images."
        ),
    ] = None,
    config: Annotated[Path | None, run("A TOML file of settings, by section: data, model, training.")] = None,
    name: Annotated[str | None, run("The run's name; by default that of the preset, numbered if it is taken.")] = None,
    runs: Annotated[Path, run("The folder that holds the runs.")] = Path("runs"),
    resume: Annotated[Path | None, run("Go on with this run; --steps counts those taken too.")] = None,
    task: Annotated[
        TaskName | None,
        data("What is learned; by default what DATA look like. dates and digits bring their own data."),
    ] = None,
    corpus: Annotated[NamedCorpus | None, data("Python's own reference, the default, or tinyshakespeare.")] = None,
    tokenizer: Annotated[TokenizerKind | None, data("A token is a character, or a frequent run of bytes.")] = None,
    vocab_size: Annotated[int | None, data("Tokens of --tokenizer bpe.")] = None,
    validation_fraction: Annotated[float | None, data("The part that only judges.")] = None,
    image_size: Annotated[
        Any, data("Images are resized to so many pixels a side; none: not at all.", **or_none(int))
    ] = None,
    shift: Annotated[float | None, data("Up to how many pixels an image is moved in training.")] = None,
    architecture: Annotated[Architecture | None, model("Which model; the preset's suits its task.")] = None,
    context_length: Annotated[int | None, model("How many tokens it sees at a time.")] = None,
    embed_dim: Annotated[int | None, model("Width of the residual stream.")] = None,
    num_heads: Annotated[int | None, model("Attention heads of a block; they divide the width.")] = None,
    num_layers: Annotated[int | None, model("Blocks.")] = None,
    num_kv_heads: Annotated[Any, model("Key/value heads that the heads share; none: one each.", **or_none(int))] = None,
    mlp_dim: Annotated[Any, model("Width of the feed-forward layer; none: 4 · embed-dim.", **or_none(int))] = None,
    dropout: Annotated[float | None, model("Probability of dropping an element in training.")] = None,
    bias: Annotated[bool | None, model("Biases in linear layers and norms.")] = None,
    activation: Annotated[Activation | None, model("In the feed-forward layer.")] = None,
    window: Annotated[Any, model("How many positions back a token sees; none: all.", **or_none(int))] = None,
    tie_head: Annotated[bool | None, model("One matrix for the embedding and the head.")] = None,
    attention: Annotated[Attention | None, model("The algorithm; the result is the same.")] = None,
    patch_size: Annotated[int | None, model("Side of the squares into which an image is cut.")] = None,
    steps: Annotated[int | None, training("Optimiser steps in all.")] = None,
    batch_size: Annotated[int | None, training("Windows of text at a time.")] = None,
    accumulation: Annotated[int | None, training("Batches whose gradients make one step.")] = None,
    optimizer: Annotated[Optimizer | None, training("How gradients become steps.")] = None,
    learning_rate: Annotated[float | None, training("Its peak.")] = None,
    min_learning_rate: Annotated[float | None, training("Where decay ends.")] = None,
    warmup: Annotated[int | None, training("Steps in which the learning rate rises.")] = None,
    decay: Annotated[Decay | None, training("How the learning rate falls.")] = None,
    label_smoothing: Annotated[float | None, training("Probability that targets give away to all classes.")] = None,
    weight_decay: Annotated[float | None, training("Of matrices.")] = None,
    beta1: Annotated[float | None, training("AdamW: memory of the gradient.")] = None,
    beta2: Annotated[float | None, training("AdamW: memory of its square.")] = None,
    momentum: Annotated[float | None, training("SGD: memory of the gradient.")] = None,
    clip: Annotated[Any, training("The longest gradient; none: any.", **or_none(float))] = None,
    seed: Annotated[int | None, training("Of weights, batches, dropout and samples.")] = None,
    device: Annotated[Device | None, training("Where to compute.")] = None,
    threads: Annotated[
        Any, training("Of the CPU; none: one a core, or as the environment says.", **or_none(int))
    ] = None,
    eval_every: Annotated[int | None, output("Steps between validations; 0: only at the end.")] = None,
    checkpoint_every: Annotated[int | None, output("Steps between checkpoints; 0: the best and the last.")] = None,
    sample_every: Annotated[int | None, output("Steps between samples; 0: none.")] = None,
    sample_prompt: Annotated[str | None, output("What samples begin with.")] = None,
    sample_tokens: Annotated[int | None, output("Their length.")] = None,
    log_every: Annotated[int | None, output("Steps between lines of the log.")] = None,
    tensorboard: Annotated[bool | None, output("Write TensorBoard files into the run as well.")] = None,
    json: Annotated[bool, output("One JSON object a line on the standard output, for programs.", "--json")] = False,
) -> None:
    """Train a transformer on a text, on pairs of texts, or on images; or go on with a run.

    Settings come from the preset, then from the TOML file, then from flags; the later wins.
    """
    from .training import Settings, reporter_for, resume_run, start_run, unused_name
    from .training.kinds import preset_for
    from .training.settings import SECTION_OF

    given = {key: value for key, value in context.params.items() if key in SECTION_OF and value is not None}
    reporter = reporter_for(sys.stdout, json)
    if resume is not None:
        if text or corpus or preset or config or name:
            raise typer.BadParameter("a run goes on with its own data, preset, config and name: leave them out.")
        result = resume_run(resume, reporter, overrides=given)
    else:
        sources = [*([corpus] if corpus else []), *(text or [])]
        start = preset or preset_for(task, sources)
        settings = Settings.resolve(start, config, given)
        result = start_run(sources, settings, runs / name if name else unused_name(runs, start), reporter)
    if not json:
        typer.echo(what_next(result))
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)


@app.command()
def generate(
    run: RunFolder,
    prompt: Annotated[str, typer.Option(help="What to go on from, or FILE:path for the text of a file.")] = "",
    max_new_tokens: Annotated[int, typer.Option(help="How many tokens to write at most.")] = 200,
    temperature: Annotated[float, typer.Option(help="0: always the most probable; 1: as the model has it.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most probable tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the fewest tokens that have the probability p.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Draw from tokens at least this times as probable as the first.")
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1: tokens that were there come more rarely; 1: as they are.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Another seed, another text.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given several times.")] = None,
    slide: Annotated[
        int, typer.Option(help="Tokens the window moves at once when the text outgrows the context; more is faster.")
    ] = 1,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep what was read; without, the same text, slowly.")
    ] = True,
    beam: Annotated[int, typer.Option(help="Translation: how many unfinished answers are kept; 1 is greedy.")] = 1,
    length_penalty: Annotated[
        float, typer.Option(help="Translation: above 0, longer answers of a beam are favoured.")
    ] = 0.6,
    attention: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw who looks at whom in the prompt: a panel a block and head."),
    ] = None,
    checkpoint: Checkpoint = "best",
    device: OnDevice = "cpu",
    json: Json = False,
) -> None:
    """Let a trained model write, as it goes."""
    from .data import load_corpus
    from .generation import stream
    from .training import load_run

    if prompt.startswith("FILE:"):
        prompt = load_corpus(Path(prompt.removeprefix("FILE:"))).text
    loaded = load_run(run, checkpoint, device)
    if loaded.settings.data.kind == "translation":
        from .generation.translate import translate

        answer = translate(
            loaded.model,
            loaded.tokenizer,
            [prompt],
            beam_size=beam,
            length_penalty=length_penalty,
            max_new_tokens=max_new_tokens,
            cached=cache,
        )[0]
        if json:
            facts = {"run": run, "step": loaded.step, "prompt": prompt, "text": answer.text}
            print_json(facts | {"log_probability": answer.log_probability})
        else:
            show(f"{answer.text}\n")
        return
    if attention is not None:
        from .generation.attention import draw_prompt

        draw_prompt(loaded.model, loaded.tokenizer, prompt, attention)
    pieces = stream(
        loaded.model,
        loaded.tokenizer,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop or (),
        slide=slide,
        cached=cache,
    )
    if json:
        facts = {"run": run, "step": loaded.step, "seed": seed, "prompt": prompt, "text": "".join(pieces)}
        facts |= {"stopped": pieces.stopped, "tokens": len(pieces.ids), "tokens_per_second": pieces.tokens_per_second}
        print_json(facts)
        return
    show(prompt)
    try:
        for piece in pieces:
            show(piece)
    finally:  # after Ctrl-C too
        show("\n")
    rate = f", {pieces.tokens_per_second:,.0f} tokens/s" if pieces.tokens_per_second else ""
    note(f"{len(pieces.ids)} tokens{rate}, step {loaded.step}, seed {seed}")
    if attention is not None:
        note(f"attention of the prompt: {attention}")


@app.command("eval")
def evaluate(
    run: RunFolder,
    text: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATA", help="Data to judge it by. Without, the validation part of the run's own."),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the confusion matrix of a run that learned images."),
    ] = None,
    checkpoint: Checkpoint = "best",
    device: OnDevice = "cpu",
    json: Json = False,
) -> None:
    """Judge a trained model by data it was not trained on."""
    from .training import evaluate_run
    from .training.report import describe_metrics

    result = evaluate_run(run, text or (), checkpoint, device)
    if picture is not None:
        if result.confusion is None:
            raise typer.BadParameter("a confusion matrix belongs to a run that learned images.")
        result.confusion.draw(picture)
    if json:
        facts: dict[str, Any] = {"run": run, "checkpoint": checkpoint} | result.metrics
        if result.confusion is not None:
            facts["confusion"] = result.confusion.to_dict()
        print_json(facts | {"seconds": result.seconds})
        return
    typer.echo(describe_metrics(result.metrics))
    if result.confusion is not None:
        typer.echo(f"\n{result.confusion}")
    if picture is not None:
        note(f"confusion matrix: {picture}")
    note(f"{run}, {checkpoint} checkpoint, {result.seconds:.1f} s")


app.add_typer(bench, name="bench")  # a command of its own; it says what it measures


@app.command()
def verify(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="WHAT", help="Parts of names (ops.linear, nn., models), or the folder of one run."),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Only this method, such as differences; may be given several times.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a certificate of the ops.")] = None,
    seed: Annotated[int, typer.Option(help="Other numbers to prove it on.")] = 0,
    checkpoint: Checkpoint = "best",
    json: Json = False,
) -> None:
    """Prove every gradient here and now: against slopes, PyTorch, and one implementation against another.

    Exits with 1 if anything fails. The folder of a run proves your own model, on its own validation text.
    """
    from .verify.command import verify as prove

    if not prove(what or (), method or (), seed, certificate, json, checkpoint).passed:
        raise typer.Exit(1)


@app.command()
def doctor(json: Json = False) -> None:
    """Say what this machine is, what holds speed back, and what to install."""
    from .bench.doctor import show as show_machine
    from .bench.doctor import to_dict
    from .bench.machine import examine

    machine = examine()
    if json:
        print_json(to_dict(machine))
        return
    from rich.console import Console

    show_machine(machine, Console(highlight=False))


# --- what is printed ---


def what_next(result: "RunResult") -> str:
    """What to type after a training."""
    from shlex import quote

    from .training import load_config, resume_command

    folder = quote(str(result.folder))
    if result.interrupted:
        return f"Interrupted at step {result.step:,}; nothing is lost. Go on with:\n  {resume_command(result.folder)}"
    data = load_config(result.folder).settings.data
    use = {
        "language": f'generate {folder} --prompt "The"',
        "translation": f'generate {folder} --prompt "{"3 March 1999" if data.task == "dates" else "…"}"',
        "images": f"eval {folder} --picture confusion.png",
    }
    return (
        "Next:\n"
        f"  compyute {use[data.kind]}\n"
        f"  compyute eval {folder}\n"
        f"  {resume_command(result.folder, f'--steps {2 * result.step}')}"
    )


def show(text: str) -> None:
    """Print a piece of text at once, without what would steer a terminal."""
    from .training.report import printable

    sys.stdout.write(printable(text, sys.stdout))
    sys.stdout.flush()


def note(text: str, style: str = "dim") -> None:
    """Print what is not part of the result: on the standard error, in a style on a terminal."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text(text, style=style), soft_wrap=True)


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object."""
    from json import dumps

    typer.echo(dumps(values, indent=2))


if __name__ == "__main__":
    main()
