"""`compyute train`: its options, each a setting or a choice of what to train on, handed on."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from . import terminal
from .options import INTERRUPTED, Device, or_none, panel

__all__ = ["train"]

run, data, model, training, output = map(panel, ("Run", "Data", "Model", "Training", "Output"))

# What the settings allow, said again so that `--help` need not load them; a test holds the two together.
NamedCorpus = Literal["builtin", "shakespeare"]
TaskName = Literal["language", "translation", "dates", "images", "digits"]
OWN_DATA = {"translation": "dates", "images": "digits"}  # the task of the same kind that needs no DATA
TokenizerKind = Literal["characters", "bpe"]
Activation = Literal["gelu_tanh", "gelu", "relu"]
Architecture = Literal["gpt", "transformer_lm", "transformer", "vit"]
Attention = Literal["auto", "sequential", "semiparallel", "parallel", "fused"]
Optimizer = Literal["adamw", "sgd"]
Decay = Literal["constant", "linear", "cosine", "inverse_sqrt"]


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
            "Start from these settings: nano (the default), cpu, shakespeare, seed or vaswani for text; dates or "
            "translation for pairs; digits or images for images."
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
            "Model to train: gpt or transformer_lm for text, transformer for translation, vit for images.",
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
    tie_word_embeddings: Annotated[
        bool | None, model("Use one matrix for the token embedding and the output layer.")
    ] = None,
    attn_implementation: Annotated[
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
    optimizer: Annotated[Optimizer | None, training("Optimizer that updates the weights.")] = None,
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
    from ..training import Settings, load_config, reporter_for, resume_run, start_run, unused_name
    from ..training.reporting.next_steps import next_steps
    from ..training.reporting.reporters import tell
    from ..training.settings.settings import SECTION_OF
    from ..training.tasks.registry import name_for, preset_for

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
        terminal.note(str(stop) or "Stopped before the training began.", style="")
        raise typer.Exit(INTERRUPTED) from stop
    if not json:
        tell(sys.stdout, next_steps(result))
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
