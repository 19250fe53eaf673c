"""The command: one table, sub-command -> function, each of which hands its options on and prints what comes back.

    compyute train | generate | eval | verify | bench | doctor

What a command needs is imported when it runs, so that `--help` is there at once. Exit codes: 0 done, 1 an error of ours
(one message, no traceback), 2 a command line that cannot be understood, 130 interrupted.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from . import __version__
from .bench.command import bench
from .errors import CompyuteError

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
OWN_DATA = {"translation": "dates", "images": "digits"}  # the task of the same kind that needs no DATA
Architecture = Literal["gpt", "vaswani", "encoder_decoder", "vit"]
TokenizerKind = Literal["characters", "bpe"]
Activation = Literal["gelu_tanh", "gelu", "relu"]
Attention = Literal["auto", "sequential", "semiparallel", "parallel", "fused"]
Optimizer = Literal["adamw", "sgd"]
Decay = Literal["constant", "linear", "cosine", "inverse_sqrt"]
Device = Literal["cpu", "cuda"]
METHODS = "differences, complex-step, adjoint, linearity, torch, twin, device or implementations"
Json = Annotated[bool, typer.Option("--json", help="Print JSON on the standard output, for programs.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run, such as runs/nano.")]
Checkpoint = Annotated[
    Literal["best", "last"],
    typer.Option(help="Use the checkpoint with the lowest validation loss (best), or the latest one (last)."),
]
OnDevice = Annotated[Device, typer.Option(help="Device to compute on.")]


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
            help="What to train on: text files or folders of text; a .tsv file of pairs, a tab between source and "
            "target; or a folder that holds a folder of images for each class. Without DATA: see --corpus and --task.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        run(
            "Start from these settings: nano (the default), cpu, shakespeare or seed for text; dates or translation "
            "for pairs; digits or images for images."
        ),
    ] = None,
    config: Annotated[
        Path | None, run("Read settings from this TOML file; its sections are data, model and training, as in --show.")
    ] = None,
    name: Annotated[
        str | None,
        run(
            "Name of the run, which is the name of its folder. Default: the name of the first DATA, or of the preset "
            "where no DATA are given; with a number if it is taken."
        ),
    ] = None,
    runs: Annotated[Path, run("Folder that holds the runs.")] = Path("runs"),
    resume: Annotated[
        Path | None,
        run("Go on with the run in this folder from its last checkpoint. --steps counts the steps taken before too."),
    ] = None,
    show: Annotated[
        bool, run("Print the settings that training would have, as TOML, and exit without training.", "--show")
    ] = False,
    task: Annotated[
        TaskName | None,
        data(
            "What to learn: language (the next token of a text), translation (the target of a pair), dates (pairs made "
            "by the library), images (the class of an image), digits (scans of digits). Default: what DATA look like.",
            metavar="<task>",
        ),
    ] = None,
    corpus: Annotated[
        NamedCorpus | None,
        data(
            "Train on a text known by name, in the place of DATA: builtin (Python's own reference, the default) or "
            "shakespeare (downloaded once).",
            metavar="<name>",
        ),
    ] = None,
    tokenizer: Annotated[
        TokenizerKind | None,
        data(
            "How text is cut into tokens: characters (each is one) or bpe (byte-pair encoding: frequent strings are).",
            metavar="<kind>",
        ),
    ] = None,
    vocab_size: Annotated[int | None, data("Number of tokens in the vocabulary of --tokenizer bpe.")] = None,
    validation_fraction: Annotated[
        float | None, data("Fraction of the data that is kept out of training and only validates; 0: none.")
    ] = None,
    image_size: Annotated[
        Any, data("Resize images to this many pixels a side; none: leave them as they are.", **or_none(int))
    ] = None,
    shift: Annotated[
        float | None, data("Move each training image at random by up to this many pixels; 0: not at all.")
    ] = None,
    architecture: Annotated[
        Architecture | None,
        model(
            "Model to train: gpt or vaswani for text, encoder_decoder for translation, vit for images.",
            metavar="<name>",
        ),
    ] = None,
    context_length: Annotated[int | None, model("Most tokens that the model sees at a time.")] = None,
    embed_dim: Annotated[
        int | None, model("Width of the model: the length of the vector that stands for a token.")
    ] = None,
    num_heads: Annotated[
        int | None, model("Number of attention heads in each block. It must divide --embed-dim.")
    ] = None,
    num_layers: Annotated[int | None, model("Number of transformer blocks, one after the other.")] = None,
    num_kv_heads: Annotated[
        Any,
        model("Number of key/value heads, which the attention heads share; none: one for each.", **or_none(int)),
    ] = None,
    mlp_dim: Annotated[
        Any, model("Width of the hidden layer in the feed-forward network; none: 4 times --embed-dim.", **or_none(int))
    ] = None,
    dropout: Annotated[
        float | None, model("Probability with which a value is set to zero in training; 0: no dropout.")
    ] = None,
    bias: Annotated[bool | None, model("Add a bias in linear layers and layer norms.")] = None,
    activation: Annotated[
        Activation | None,
        model(
            "Activation function of the feed-forward network: gelu_tanh (GELU, approximated with tanh), gelu (exact) "
            "or relu.",
            metavar="<name>",
        ),
    ] = None,
    window: Annotated[
        Any, model("Let a token attend to only this many positions up to its own; none: to all.", **or_none(int))
    ] = None,
    tie_head: Annotated[bool | None, model("Use one matrix for the token embedding and the output layer.")] = None,
    attention: Annotated[
        Attention | None,
        model(
            "How attention is computed: auto (the fastest), sequential, semiparallel, parallel or fused. The results "
            "are the same, speed and memory differ.",
            metavar="<name>",
        ),
    ] = None,
    patch_size: Annotated[int | None, model("Side of the square patches into which images are cut, in pixels.")] = None,
    steps: Annotated[int | None, training("Number of training steps in all.")] = None,
    batch_size: Annotated[
        int | None, training("Number of examples in a batch: pieces of text, pairs, or images.")
    ] = None,
    accumulation: Annotated[
        int | None,
        training("Number of batches whose gradients make one step together: a larger batch in the same memory."),
    ] = None,
    optimizer: Annotated[Optimizer | None, training("Optimiser that updates the weights.")] = None,
    learning_rate: Annotated[float | None, training("Highest learning rate, at the end of the warm-up.")] = None,
    min_learning_rate: Annotated[
        float | None, training("Learning rate at the last step, with linear and cosine decay.")
    ] = None,
    warmup: Annotated[
        int | None, training("Number of steps at the start in which the learning rate rises to --learning-rate.")
    ] = None,
    decay: Annotated[
        Decay | None,
        training(
            "How the learning rate falls after the warm-up: constant (not at all), linear, cosine or inverse_sqrt.",
            metavar="<name>",
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None,
        training("Part of each target's probability that is spread evenly over all classes; 0: no smoothing."),
    ] = None,
    weight_decay: Annotated[
        float | None, training("How strongly weight matrices are pulled towards zero; 0: not at all.")
    ] = None,
    beta1: Annotated[float | None, training("AdamW: decay rate of the running mean of gradients.")] = None,
    beta2: Annotated[float | None, training("AdamW: decay rate of the running mean of squared gradients.")] = None,
    momentum: Annotated[
        float | None, training("SGD: how much of the previous update is kept in the next; 0: none.")
    ] = None,
    clip: Annotated[
        Any, training("Clip the gradient to this length (L2 norm); none: no clipping.", **or_none(float))
    ] = None,
    seed: Annotated[
        int | None, training("Seed of all random numbers: initial weights, batches, dropout and samples.")
    ] = None,
    device: Annotated[Device | None, training("Device to compute on.")] = None,
    threads: Annotated[
        Any,
        training("Number of CPU threads; none: one for each core, or as environment variables say.", **or_none(int)),
    ] = None,
    eval_every: Annotated[
        int | None, output("Validate each time this many steps are taken; 0: only at the start and the end.")
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        output("Save a checkpoint each time this many steps are taken; 0: only the best and the last."),
    ] = None,
    sample_every: Annotated[int | None, output("Show a sample each time this many steps are taken; 0: never.")] = None,
    sample_prompt: Annotated[str | None, output("Text with which samples begin.")] = None,
    sample_tokens: Annotated[int | None, output("Length of samples, in tokens.")] = None,
    log_every: Annotated[int | None, output("Log the training loss each time this many steps are taken.")] = None,
    tensorboard: Annotated[bool | None, output("Also write TensorBoard files into the run's folder.")] = None,
    json: Annotated[bool, output("Print one JSON object per line, for programs.", "--json")] = False,
) -> None:
    """Train a transformer on a text, on pairs of texts, or on images; or go on with a run.

    Defaults come from the preset; a TOML file (--config) overrides them, and options override both.

    To see the values of a preset: compyute train --preset cpu --show
    """
    from .training import Settings, load_config, reporter_for, resume_run, start_run, unused_name
    from .training.advice import what_next
    from .training.kinds import name_for, preset_for
    from .training.report import tell
    from .training.settings import SECTION_OF

    given = {key: value for key, value in context.params.items() if key in SECTION_OF and value is not None}
    if resume is not None and (text or corpus or preset or config or name is not None):
        raise typer.BadParameter("a run goes on with its own data, preset, config and name: leave them out.")
    if corpus and text:
        raise typer.BadParameter("a run is trained on DATA or on --corpus, not on both: leave one of them out.")
    if name is not None and (name in ("", "..") or name != Path(name).name or "\\" in name):
        raise typer.BadParameter(f"the name of a run is that of one folder, such as my-run, got {name!r}.")
    sources = text or ([corpus] if corpus else [])
    start = preset or preset_for(task, sources)
    if resume is None and (corpus or not (text or show)):
        chosen = Settings.resolve(start, config, given).data
        if corpus and chosen.kind != "language":
            raise typer.BadParameter(f"--corpus names a text, which --task {chosen.task} does not read: leave one out.")
        if not sources and chosen.task in OWN_DATA:
            raise typer.BadParameter(
                f"the task {chosen.task} needs DATA; --task {OWN_DATA[chosen.task]} brings its own."
            )
    if show:
        saved = load_config(resume).settings.with_overrides(given) if resume else None
        typer.echo((saved or Settings.resolve(start, config, given)).to_toml(), nl=False)
        return
    reporter = reporter_for(sys.stdout, json)
    try:
        if resume is not None:
            result = resume_run(resume, reporter, overrides=given)
        else:
            settings = Settings.resolve(start, config, given)
            folder = runs / name if name else unused_name(runs, name_for(text or (), start))
            result = start_run(sources, settings, folder, reporter)
    except KeyboardInterrupt as stop:
        note(str(stop) or "Stopped before the training began.", style="")
        raise typer.Exit(INTERRUPTED) from stop
    if not json:
        tell(sys.stdout, what_next(result))
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)


@app.command()
def generate(
    context: typer.Context,
    run: RunFolder,
    prompt: Annotated[
        str, typer.Option(help="Text to go on from, or to translate; FILE:path reads it from a file.")
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(help="Write at most this many tokens.")] = 200,
    temperature: Annotated[
        float,
        typer.Option(
            help="How freely tokens are chosen: 0 always takes the most probable one, 1 draws by the model's "
            "probabilities."
        ),
    ] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Choose among the k most probable tokens only.")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Choose among the most probable tokens only, as many as have the probability p together."),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(help="Choose among tokens only whose probability is at least this fraction of the highest."),
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1, tokens that have occurred become less probable; 1: no penalty.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the random choices; the same seed gives the same text.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="Stop before this text would appear; may be given several times.")
    ] = None,
    slide: Annotated[
        int,
        typer.Option(
            help="When the text outgrows the context, forget this many of its oldest tokens at a time; more is faster."
        ),
    ] = 1,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Keep keys and values of the tokens that were read; without, the text is the same but takes longer.",
        ),
    ] = True,
    beam: Annotated[
        int, typer.Option(help="Translation: beam search with this many candidate answers; 1: greedy search.")
    ] = 1,
    length_penalty: Annotated[
        float,
        typer.Option(help="Translation, with --beam: the higher, the more are long answers favoured; 0: not at all."),
    ] = 0.6,
    attention: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw the attention weights among the tokens of the prompt as a picture, a panel for each head; of a "
            "translation three, FILE-encoder.png, FILE-decoder.png and FILE-cross.png.",
        ),
    ] = None,
    checkpoint: Checkpoint = "best",
    device: OnDevice = "cpu",
    json: Json = False,
) -> None:
    """Let a trained model write a text, token by token; or translate one."""
    from .data import load_corpus
    from .generation import stream
    from .training import load_run

    if prompt.startswith("FILE:"):
        prompt = load_corpus(Path(prompt.removeprefix("FILE:"))).text
    loaded = load_run(run, checkpoint, device)
    translates = loaded.settings.data.kind == "translation"
    for option in OF_LANGUAGE if translates else OF_TRANSLATION:
        source = context.get_parameter_source(option)
        if source is not None and source.name != "DEFAULT":
            raise typer.BadParameter(
                f"--{option.replace('_', '-')} does not belong to a run that learned {loaded.settings.data.kind}: "
                "leave it out."
            )
    if translates:
        translated(loaded, run, prompt.strip(), beam, length_penalty, max_new_tokens, cache, attention, json)
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


OF_LANGUAGE = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop", "slide")
OF_TRANSLATION = ("beam", "length_penalty")


def translated(
    loaded: Any,
    run: str,
    prompt: str,
    beam: int,
    length_penalty: float,
    max_new_tokens: int,
    cache: bool,
    attention: Path | None,
    json: bool,
) -> None:
    """Print what a run answers to a prompt, and draw where it looked."""
    from time import perf_counter

    from .generation.translate import translate

    if not prompt:
        raise typer.BadParameter("a translation needs something to translate: give --prompt TEXT.")
    began = perf_counter()
    answer = translate(
        loaded.model,
        loaded.tokenizer,
        [prompt],
        beam_size=beam,
        length_penalty=length_penalty,
        max_new_tokens=max_new_tokens,
        cached=cache,
    )[0]
    tokens = len(answer.log_probabilities)  # END too: it was written as well
    rate = tokens / (perf_counter() - began)
    pictures: list[Path] = []
    if attention is not None:
        from .generation.attention import draw_translation

        pictures = draw_translation(loaded.model, loaded.tokenizer, prompt, answer.ids, attention)
    if json:
        facts = {"run": run, "step": loaded.step, "prompt": prompt, "text": answer.text, "ended": answer.ended}
        facts |= {"log_probability": answer.log_probability, "log_probabilities": answer.log_probabilities}
        print_json(facts | {"tokens": tokens, "tokens_per_second": rate})
        return
    show(f"{answer.text}\n")
    note(f"{tokens} tokens, {rate:,.0f} tokens/s, step {loaded.step}")
    if pictures:
        note(f"attention: {', '.join(map(str, pictures))}")


@app.command("eval")
def evaluate(
    run: RunFolder,
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA", help="Data to judge the model by. Without DATA, the validation part of the run's own data."
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the confusion matrix of a run that learned images as a picture."),
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
    if "exact_match" in result.metrics and "bleu" not in result.metrics:
        note("BLEU was left out: it needs sacreBLEU. pip install 'compyute-transformer[translation]'")
    note(f"{run}, {checkpoint} checkpoint, {result.seconds:.1f} s")


app.add_typer(bench, name="bench")  # a command of its own; it says what it measures


@app.command()
def verify(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WHAT",
            help="What to prove: names or parts of names (ops.linear, nn., models), or the folder of one run. "
            "Without WHAT, everything of the library.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="<name>", help=f"Prove by this method only: {METHODS}. May be given several times."),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a certificate, a JSON file of what was proven of the ops, if all proofs pass."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers on which the gradients are proven.")] = 0,
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
