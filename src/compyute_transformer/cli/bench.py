"""The command `compyute bench`: its options, and how a report is printed, written and drawn.

compyute bench step | attention | products | ops | generate | kernels | startup | parallel
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from ..bench.candidates import Report

from .options import OnDevice, with_options

__all__ = ["bench"]

bench = typer.Typer(
    help="Measure steps, attention, products, ops, generation, kernels, startup, processes, beside PyTorch.",
    no_args_is_help=True,
)

Size = Literal["nano", "cpu", "shakespeare", "seed", "gpt2"]
StepSize = Literal["nano", "cpu", "shakespeare", "seed", "gpt2", "vaswani", "vit"]


def shape(help: str) -> Any:
    """Return an option that changes the size of the work."""
    return typer.Option(help=help, rich_help_panel="Size")


def written(help: str, *names: str) -> Any:
    """Return an option that says where results go."""
    return typer.Option(*names, help=help, rich_help_panel="Output")


Rounds = Annotated[int, typer.Option(help="Number of times that each candidate is timed.")]
Memory = Annotated[bool, typer.Option(help="Measure peak memory too, with each candidate in its own process.")]
Bfloat16 = Annotated[bool, typer.Option(help="Time products in bfloat16 too.")]

BatchSize = Annotated[int | None, shape("Number of sequences in a batch.")]
ContextLength = Annotated[int | None, shape("Greatest number of tokens the model sees at a time.")]
EmbedDim = Annotated[int | None, shape("Width of the model: the length of the embedding vectors.")]
NumHeads = Annotated[int | None, shape("Number of attention heads in each block. It must divide --embed-dim.")]
NumLayers = Annotated[int | None, shape("Number of transformer blocks, one after the other.")]
Dropout = Annotated[float | None, shape("Probability with which a value is set to zero; 0: no dropout.")]


OnDeviceOrNone = Annotated[Literal["cpu", "cuda"] | None, shape("Device to compute on: cpu or cuda.")]


class Sizes:
    """Sizes in place of those of a preset; None: the preset's."""

    def given(self) -> dict[str, object]:
        """Return the sizes that were given, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class ModelSizes(Sizes):
    """The sizes of a model and of its batches."""

    batch_size: BatchSize = None
    context_length: ContextLength = None
    embed_dim: EmbedDim = None
    num_heads: NumHeads = None
    num_layers: NumLayers = None
    dropout: Dropout = None


@dataclass(frozen=True)
class StepSizes(ModelSizes):
    """The sizes of a model and of its batches, and where a step is computed."""

    device: OnDeviceOrNone = None


@dataclass(frozen=True)
class ProductSizes(Sizes):
    """The sizes that matrix products depend on."""

    batch_size: BatchSize = None
    context_length: ContextLength = None
    embed_dim: EmbedDim = None
    num_heads: NumHeads = None


@dataclass(frozen=True)
class OpSizes(Sizes):
    """The sizes that the arguments of ops depend on, and where they are computed."""

    batch_size: BatchSize = None
    context_length: ContextLength = None
    embed_dim: EmbedDim = None
    num_heads: NumHeads = None
    dropout: Dropout = None
    device: OnDeviceOrNone = None


@dataclass(frozen=True)
class GeneratorSizes(Sizes):
    """The sizes of a model that generates."""

    context_length: ContextLength = None
    embed_dim: EmbedDim = None
    num_heads: NumHeads = None
    num_layers: NumLayers = None


@dataclass(frozen=True)
class TextSizes:
    """What is generated."""

    prompt_tokens: Annotated[int | None, shape("Number of tokens in the prompt. Default: half the context.")] = None
    new_tokens: Annotated[int | None, shape("Number of tokens to generate. Default: half the context.")] = None
    batch_sizes: Annotated[str, shape("Numbers of texts written at once, with commas between.")] = "1"
    weights: Annotated[
        str, shape("Weights of ours, with commas between: float32, bfloat16, int8. float32 is always among them.")
    ] = "float32,bfloat16,int8"
    anew: Annotated[bool, typer.Option("--anew/--no-anew", help="Time generation without a cache too.")] = True


@dataclass(frozen=True)
class StepModes:
    """The variants of a step that are timed, ours and PyTorch's."""

    bfloat16: Bfloat16 = True
    autocast: Annotated[bool, typer.Option(help="Time PyTorch with bfloat16 autocast too.")] = True
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Time PyTorch with torch.compile too, which takes minutes.")
    ] = False

    def names(self) -> list[str]:
        """Return the variants of PyTorch by the names that `bench_step` takes."""
        return ["eager", *(["autocast"] if self.autocast else []), *(["compiled"] if self.compiled else [])]


@dataclass(frozen=True)
class Output:
    """Where a report goes besides the terminal."""

    csv: Annotated[Path | None, written("Add a row for every number to this file.", "--csv")] = None
    plot: Annotated[Path | None, written("Draw a chart into this PNG file.", "--plot")] = None
    json: Annotated[bool, written("Print JSON on the standard output, for programs.", "--json")] = False

    def __post_init__(self) -> None:
        """Refuse a file that cannot be written, before minutes of measurement."""
        for path in (self.csv, self.plot):
            if path is not None and (path.is_dir() or not path.parent.is_dir()):
                raise typer.BadParameter(
                    f"--csv and --plot name a file in a folder that exists, got {str(path)!r}: make its folder first."
                )


@bench.command()
@with_options()
def step(
    preset: Annotated[StepSize, shape("Size of the model, and settings of its training.")] = "shakespeare",
    vocab_size: Annotated[int | None, shape("Number of tokens in the vocabulary.")] = None,
    *,
    sizes: StepSizes,
    modes: StepModes,
    reference: Annotated[bool, typer.Option("--reference", help="Time our readable NumPy references too.")] = False,
    rounds: Rounds = 10,
    memory: Memory = True,
    output: Output,
) -> None:
    """Time a whole training step beside PyTorch's, with the same mathematics, weights and data."""
    from ..bench.step import bench_step

    others = modes.names()
    report = bench_step(preset, sizes.given(), vocab_size, others, reference, rounds, memory, modes.bfloat16)
    _out(report, output)


@bench.command()
@with_options()
def attention(
    algorithms: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ALGORITHM",
            help="Algorithms to time: sequential, semiparallel, parallel, fused. Without ALGORITHM, all.",
        ),
    ] = None,
    preset: Annotated[Size, shape("Size of the model whose training steps are timed.")] = "seed",
    *,
    sizes: StepSizes,
    lengths: Annotated[
        str,
        shape("Sequence lengths at which attention alone is timed, with commas between; none: it is not timed alone."),
    ] = "1024,2048,4096",
    rounds: Rounds = 10,
    memory: Memory = True,
    bfloat16: Bfloat16 = True,
    output: Output,
) -> None:
    """Time whole training steps with each algorithm, and attention alone beside PyTorch's."""
    from ..bench.attention import ALGORITHMS, bench_attention

    alone = [] if lengths == "none" else _whole_numbers(lengths, "--lengths")
    report = bench_attention(algorithms or ALGORITHMS, preset, sizes.given(), alone, rounds, memory, bfloat16)
    _out(report, output)


@bench.command()
@with_options()
def products(
    preset: Annotated[Size, shape("Size of the model whose matrix products are timed.")] = "shakespeare",
    *,
    sizes: ProductSizes,
    rounds: Rounds = 10,
    output: Output,
) -> None:
    """Time the matrix products of a model's layers beside NumPy, PyTorch, numkong and MKL where installed."""
    from ..bench.products import bench_products

    _out(bench_products(preset, sizes.given(), rounds), output)


@bench.command()
@with_options()
def ops(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="OP", help="Ops to time, such as linear or adamw_update. Without OP, all."),
    ] = None,
    preset: Annotated[Size, shape("Size of the model whose shapes the ops work on.")] = "shakespeare",
    *,
    sizes: OpSizes,
    rounds: Rounds = 10,
    output: Output,
) -> None:
    """Time each kernel beside its reference, and beside a plain copy or matrix product."""
    from ..bench.ops import bench_ops

    _out(bench_ops(names or (), preset, sizes.given(), rounds), output)


@bench.command()
@with_options()
def generate(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A published model: a directory of Transformers, a .gguf file, or a package with one inside. "
            "Without MODEL, a preset with random weights.",
        ),
    ] = None,
    preset: Annotated[Size | None, shape("Size of the model that generates. Default: shakespeare.")] = None,
    *,
    sizes: GeneratorSizes,
    texts: TextSizes,
    device: OnDevice = "cpu",
    rounds: Rounds = 5,
    output: Output,
) -> None:
    """Time generation in three kinds of weights, beside transformers and llama.cpp where installed."""
    from ..bench.generate import Texts, bench_generate

    batch_sizes = tuple(_whole_numbers(texts.batch_sizes, "--batch-sizes"))
    kinds = tuple(texts.weights.split(","))
    written = Texts(texts.prompt_tokens, texts.new_tokens, batch_sizes, kinds, texts.anew, device)
    _out(bench_generate(preset, sizes.given(), written, rounds, model), output)


@bench.command()
@with_options()
def kernels(
    preset: Annotated[Size, shape("Size of the model whose training steps are timed.")] = "shakespeare",
    *,
    sizes: StepSizes,
    rounds: Rounds = 5,
    output: Output,
) -> None:
    """Measure what each kind of kernel gains: time a training step, adding the kernels of one kind at a time."""
    from ..bench.kernels import bench_kernels

    _out(bench_kernels(preset, sizes.given(), rounds), output)


@bench.command()
@with_options()
def startup(
    preset: Annotated[Size, shape("Size of the model that takes the first step.")] = "cpu",
    *,
    rounds: Rounds = 5,
    output: Output,
) -> None:
    """Time the import and the first step, without and with compiled kernels in the cache."""
    from ..bench.startup import bench_startup

    _out(bench_startup(preset, rounds), output)


@bench.command()
@with_options()
def parallel(
    preset: Annotated[Size, shape("Size of the model that is trained.")] = "cpu",
    processes: Annotated[str, shape("Numbers of processes, with commas between, each a power of two.")] = "1,2",
    steps: Annotated[int, typer.Option(help="Number of steps of each process in a round.", min=1)] = 10,
    *,
    rounds: Rounds = 3,
    output: Output,
) -> None:
    """Time a training step by several processes of this machine, and predict it for networks of up to 1,024."""
    from ..bench.parallel import bench_parallel

    counts = _whole_numbers(processes, "--processes")
    if not counts or any(count & (count - 1) for count in counts):
        raise typer.BadParameter(f"--processes are powers of two with commas between, got {processes!r}.")
    _out(bench_parallel(preset, tuple(sorted(counts)), steps, rounds), output)


def _whole_numbers(text: str, option: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise typer.BadParameter(f"{option} are whole numbers of at least 1 with commas between, got {text!r}.")
    return numbers


def _out(report: "Report", output: Output) -> None:
    """Print the report, write it to a CSV file and draw it, as requested."""
    from ..bench.candidates import write_csv

    csv, plot = output.csv, output.plot
    if output.json:
        from json import dumps

        typer.echo(dumps(report.to_dict(), indent=2))
    else:
        from rich.console import Console

        from ..bench.report import show

        show(report, Console(highlight=False))
    if csv is not None:
        write_csv(csv, report)
    if plot is not None:
        from ..bench.plot import plot as draw

        draw(report, plot)
    for path in (csv, plot):
        if path is not None:
            print(f"Written: {path}", file=sys.stderr)
