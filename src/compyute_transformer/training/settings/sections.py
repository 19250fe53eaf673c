"""The sections of the settings: data, model, training. Each field is declared once: default, range, help.

The options of `compyute train` are made from these declarations.
"""

# ruff: noqa: RUF009  (`setting` makes a dataclass field)

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ...arrays import Device
from ...errors import ConfigError
from ...models.llama import Positions
from ...models.registry import MODELS
from ...nn.attention import Implementation
from ...nn.feed_forward import Activation
from ...ops.attention import HIGHEST_CAP, LOWEST_CAP
from ...optim.schedule import Decay, Schedule
from ...precision import Precision
from .choices import check_ranges, require, setting
from .presets import begin_with

__all__ = ["DataSettings", "ModelSettings", "TrainingSettings"]

AnyPrecision: TypeAlias = Literal["auto", "float32", "tf32", "bfloat16"]
TaskName: TypeAlias = Literal["language", "masked", "chat", "labels", "translation", "dates", "images", "digits"]
KIND_OF = {"dates": "translation", "digits": "images", "chat": "language"}  # of tasks that are a special case
if TYPE_CHECKING:
    Architecture: TypeAlias = str
else:
    Architecture = Literal[tuple(MODELS)]

MANY = 10**9  # the highest count of anything that is not kept in memory
LARGEST = 10**11  # parameters
OF_IMAGES = ("kind", ("images",))
OF_GENERATION = ("kind", ("language", "translation"))
OF_TEXT = ("kind", ("language", "masked", "translation", "labels"))


@dataclass(frozen=True)
class DataSettings:
    """The data, and how they become arrays.

    Of a text, the validation part is its end; of pairs, a part of the distinct sources with all their targets; of
    images, a part of each class. The task "dates" has its own validation pairs: for it only a fraction of 0 counts.
    """

    task: TaskName = setting(
        "language",
        "What to learn: language (the next token of a text), masked (hidden tokens of a text), chat (the answers of "
        "conversations in JSON lines, with --from), labels (the label of a text, in JSON lines, with --from), "
        "translation (the target of a pair), dates (pairs made by the library), images (the class of an image) or "
        "digits (scans of digits). "
        "Default: what DATA look like.",
        "Data",
    )
    tokenizer: Literal["characters", "bpe"] = setting(
        "characters",
        "How text becomes tokens: characters (one token each) or bpe (byte-pair encoding).",
        "Data",
        only_with=OF_TEXT,
    )
    vocab_size: int = setting(
        1024,
        "Number of tokens in the vocabulary of --tokenizer bpe.",
        "Data",
        at_least=1,
        at_most=10**7,
        only_with=("tokenizer", ("bpe",)),
    )
    validation_fraction: float = setting(
        0.1, "Fraction of the data that is held out for validation; 0: no validation.", "Data", at_least=0, below=1
    )
    image_size: int | None = setting(
        None,
        "Resize images to this many pixels a side; none: keep their size.",
        "Data",
        at_least=1,
        at_most=2**14,
        only_with=OF_IMAGES,
    )
    shift: float = setting(
        0.0,
        "Shift each training image at random by up to this many pixels; 0: no shift.",
        "Data",
        at_least=0,
        at_most=2**14,
        only_with=OF_IMAGES,
    )

    @property
    def kind(self) -> str:
        """The kind of task: "language", "masked", "labels", "translation" or "images"."""
        return KIND_OF.get(self.task, self.task)

    @property
    def record(self) -> str:
        """The name of the task's record: "chat", or the kind."""
        return "chat" if self.task == "chat" else self.kind

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class ModelSettings:
    """The fields of every model's configuration, except those that the data decide, such as the vocabulary's size.

    A field that the architecture does not have keeps its default.
    """

    architecture: Architecture = setting(
        "gpt", f"Model: {', '.join(f'{record.name} ({record.task})' for record in MODELS.values())}.", "Model"
    )
    context_length: int = setting(
        256, "Number of tokens that the model sees at a time, at most.", "Model", at_least=1, at_most=2**22
    )
    embed_dim: int = setting(
        384, "Width of the model: the length of the vector of each token.", "Model", at_least=1, at_most=2**16
    )
    num_heads: int = setting(
        6, "Number of attention heads in each block. It must divide --embed-dim.", "Model", at_least=1, at_most=2**12
    )
    num_layers: int = setting(6, "Number of transformer blocks.", "Model", at_least=1, at_most=2**12)
    num_kv_heads: int | None = setting(
        None,
        "Number of key/value heads, shared by the attention heads; none: one for each.",
        "Model",
        at_least=1,
        at_most=2**12,
    )
    mlp_dim: int | None = setting(
        None,
        "Width of the hidden layer in the feed-forward network; none: 4 times --embed-dim (llama: 8/3 times).",
        "Model",
        at_least=1,
        at_most=2**20,
    )
    dropout: float = setting(
        0.0, "Probability with which a value is set to zero in training; 0: no dropout.", "Model", at_least=0, below=1
    )
    bias: bool = setting(True, "Add a bias in linear layers and layer norms.", "Model")
    activation: Activation = setting(
        "gelu_tanh",
        "Activation of the feed-forward network: gelu_tanh (GELU's approximation with tanh), gelu (exact) or relu.",
        "Model",
    )
    window: int | None = setting(
        None,
        "Let each token attend to this many positions up to its own only; none: to all.",
        "Model",
        at_least=1,
        at_most=2**22,
    )
    soft_cap: float | None = setting(
        None,
        "Keep attention scores within this many above and below zero, by a tanh (30 to 50, say); none: no cap.",
        "Model",
        at_least=LOWEST_CAP,
        below=HIGHEST_CAP,
    )
    positions: Positions = setting(
        "rotary",
        "How a llama knows positions: rotary (queries and keys are turned) or alibi (scores fall with the distance).",
        "Model",
    )
    tie_word_embeddings: bool = setting(
        True, "Share one matrix between the token embedding and the output layer.", "Model"
    )
    attn_implementation: Implementation = setting(
        "auto",
        "Algorithm of attention: auto (the fastest), sequential, semiparallel, parallel or fused. They give the same "
        "results with other speed and memory.",
        "Model",
    )
    norm_eps: float = setting(1e-5, "Number that norms add before they take the root.", "Model", at_least=0, below=1)
    patch_size: int = setting(
        4, "Side of the square patches into which images are cut, in pixels.", "Model", at_least=1, at_most=2**14
    )

    def __post_init__(self) -> None:
        check_ranges(self)
        width, hidden = self.embed_dim, self.mlp_dim or 4 * self.embed_dim
        size = self.num_layers * width * (4 * width + 2 * hidden) + self.context_length * width
        if size > LARGEST:
            raise ConfigError(
                f"Settings: a model must have at most {LARGEST:.0e} parameters, got embed_dim {width}, num_layers "
                f"{self.num_layers} and context_length {self.context_length}, about {size:.0e}. Choose smaller sizes."
            )
        self.config(self._example_shape())  # checks how the fields go together

    def config(self, shape: Mapping[str, Any]) -> Any:
        """Return the configuration of the model. shape: the fields that the data decide.

        Raises:
            ConfigError: a value that the model cannot have, or a setting that it does not have at all.
        """
        known = self.fields_of_config()
        given = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "architecture"}
        defaults = {entry.name: entry.default for entry in fields(self)}
        foreign = [name for name, value in given.items() if name not in known and value != defaults[name]]
        if foreign:
            raise ConfigError(
                f"Settings: the architecture {self.architecture} has no {' and no '.join(foreign)}, got "
                f"{', '.join(f'{name} {given[name]}' for name in foreign)}. Leave it out, choose another one"
                + begin_with(self.architecture)
            )
        config: Any = MODELS[self.architecture].config(
            **{name: value for name, value in given.items() if name in known}, **shape
        )
        return config

    def fields_of_config(self) -> set[str]:
        """Return the names of the fields that the architecture's configuration has."""
        return {entry.name for entry in fields(MODELS[self.architecture].config)}

    def _example_shape(self) -> dict[str, Any]:
        """Return values for the fields that the data decide: enough to check the others before there are data."""
        if MODELS[self.architecture].task != "images":
            return {"vocab_size": 1}
        return {"image_height": self.patch_size, "image_width": self.patch_size, "channels": 1, "num_classes": 2}


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained. Each `*_every` counts steps; 0 means never, unless its help says otherwise."""

    steps: int = setting(2000, "Number of training steps in all.", "Training", at_least=1, at_most=MANY)
    batch_size: int = setting(
        12, "Number of examples in a batch: windows of text, pairs, or images.", "Training", at_least=1, at_most=10**6
    )
    accumulation: int = setting(
        1,
        "Number of batches whose gradients are summed for one step: a larger batch in the same memory.",
        "Training",
        at_least=1,
        at_most=10**6,
    )
    leaves: int = setting(
        1,
        "Number of equal parts of a batch whose gradients are computed one by one, and which processes share. The "
        "result depends on it, but not on the number of processes. Default: 1, or what the processes need.",
        "Training",
        at_least=1,
        at_most=2**10,
    )
    shard_optimizer: bool = setting(
        True,
        "With several processes: each keeps and updates a part of the optimizer's state (ZeRO-1). The result and the "
        "checkpoints are the same, and so is what travels.",
        "Training",
    )
    fast_sums: bool = setting(
        False,
        "With several processes: add gradients by MPI's own Allreduce. The last bits then depend on the number of "
        "processes.",
        "Training",
    )
    optimizer: Literal["adamw", "sgd"] = setting("adamw", "Optimizer: adamw or sgd.", "Training")
    learning_rate: float = setting(1e-3, "Highest learning rate, reached when the warm-up ends.", "Training", above=0)
    min_learning_rate: float = setting(
        0.0,
        "Learning rate at which the decay ends, after --steps steps. Default: the preset's, lowered in proportion "
        "where --learning-rate is lower than the preset's.",
        "Training",
        at_least=0,
        only_with=("decay", ("linear", "cosine", "inverse_sqrt")),
    )
    warmup: int = setting(
        0,
        "Number of steps in which the learning rate rises to --learning-rate. Default: the preset's, but at most a "
        "quarter of --steps.",
        "Training",
        at_least=0,
        at_most=MANY,
    )
    decay: Decay = setting(
        "cosine",
        "How the learning rate falls after the warm-up: constant (not at all), linear, cosine or inverse_sqrt.",
        "Training",
    )
    label_smoothing: float = setting(
        0.0,
        "Part of each target's probability that is spread evenly over all classes; 0: no smoothing.",
        "Training",
        at_least=0,
        below=1,
    )
    weight_decay: float = setting(0.01, "Weight decay of the weight matrices; 0: none.", "Training", at_least=0)
    beta1: float = setting(
        0.9,
        "AdamW: decay rate of the running mean of gradients.",
        "Training",
        at_least=0,
        below=1,
        only_with=("optimizer", ("adamw",)),
    )
    beta2: float = setting(
        0.999,
        "AdamW: decay rate of the running mean of squared gradients.",
        "Training",
        at_least=0,
        below=1,
        only_with=("optimizer", ("adamw",)),
    )
    momentum: float = setting(
        0.9,
        "SGD: fraction of the previous update that is added to the next; 0: none.",
        "Training",
        at_least=0,
        below=1,
        only_with=("optimizer", ("sgd",)),
    )
    clip: float | None = setting(1.0, "Clip the gradient to this norm (L2); none: no clipping.", "Training", above=0)
    train_blocks: int | None = setting(
        None,
        "With --from: train this many blocks at the end alone, and what stands behind them; none: all weights.",
        "Training",
        at_least=1,
        at_most=2**12,
    )
    lora_rank: int | None = setting(
        None,
        "With --from: train LoRA of this rank beside the frozen weights. Its learning rate is ten times the preset's "
        "by default; none: train the weights themselves.",
        "Training",
        at_least=1,
        at_most=2**12,
    )
    lora_alpha: float | None = setting(
        None, "LoRA: its products are scaled by this over --lora-rank; none: twice the rank.", "Training", above=0
    )
    lora_targets: str = setting(
        "all-linear",
        "LoRA: the matrices of the blocks that it changes, by their names in Transformers with commas between them, "
        "q_proj,v_proj; all-linear: all of them.",
        "Training",
    )
    recompute: bool = setting(
        False,
        "Keep the inputs of blocks alone and run each block again in its backward: less memory, a third more time, the "
        "same results.",
        "Training",
    )
    eval_every: int = setting(
        250,
        "Validate every this many steps; 0: only before the first step and after the last.",
        "Output",
        at_least=0,
        at_most=MANY,
    )
    eval_tokens: int | None = setting(
        2**18,
        "Validate on at most this many tokens, in windows that the seed chooses once; none: on all.",
        "Output",
        at_least=1,
        at_most=2**62,
        only_with=("kind", ("language", "masked")),
    )
    patience: int | None = setting(
        None,
        "Stop when the validation loss has not fallen for this many validations in a row; none: take all --steps.",
        "Training",
        at_least=1,
        at_most=MANY,
    )
    checkpoint_every: int = setting(
        500,
        "Save a checkpoint every this many steps; 0: only the best and the last.",
        "Output",
        at_least=0,
        at_most=MANY,
    )
    sample_every: int = setting(
        500,
        "Print a sample every this many steps, and after the last; 0: never.",
        "Output",
        at_least=0,
        at_most=MANY,
        only_with=OF_TEXT,
    )
    sample_prompt: str = setting("", "Text with which samples begin.", "Output", only_with=OF_GENERATION)
    sample_tokens: int = setting(
        200, "Length of samples, in tokens.", "Output", at_least=1, at_most=10**6, only_with=OF_GENERATION
    )
    log_every: int = setting(10, "Log the training loss every this many steps.", "Output", at_least=1, at_most=MANY)
    seed: int = setting(
        0,
        "Seed of all random numbers: initial weights, batches, dropout and samples.",
        "Training",
        at_least=0,
        below=2**64,
    )
    device: Device = setting("cpu", "Device to compute on: cpu or cuda.", "Training")
    precision: AnyPrecision = setting(
        "auto",
        "Matrix products: in bfloat16 beside weights and sums in float32; in float32; or, on a GPU, in tf32. auto: "
        "bfloat16 on a GPU, and on a CPU where it is measured to be faster than float32; a run keeps what was chosen.",
        "Training",
    )
    threads: int | None = setting(
        None,
        "Number of CPU threads; none: one for each core, or as environment variables say.",
        "Training",
        at_least=1,
        at_most=2**14,
    )
    tensorboard: bool = setting(False, "Write TensorBoard files into the run's folder too.", "Output")

    def __post_init__(self) -> None:
        check_ranges(self)
        require(
            self.batch_size % self.leaves == 0, "leaves", f"must divide batch_size, here {self.batch_size}", self.leaves
        )
        require(
            self.min_learning_rate <= self.learning_rate,
            "min_learning_rate",
            f"must be at most learning_rate, here {self.learning_rate:g}",
            self.min_learning_rate,
        )
        require(
            self.precision != "tf32" or self.device == "cuda",
            "precision",
            "tf32 is of the tensor cores of a GPU; on a CPU choose float32 or bfloat16",
            f"precision tf32 and device {self.device}",
        )
        adapters = self.lora_alpha is not None or self.lora_targets != "all-linear"
        require(
            self.lora_rank is not None or not adapters,
            "lora_rank",
            "must be given with lora_alpha and lora_targets",
            "none",
        )
        require(
            self.patience is None or self.eval_every > 0,
            "patience",
            "counts validations, so eval_every must be at least 1",
            f"patience {self.patience} and eval_every 0",
        )

    def precision_on(self, device: Device) -> Precision:
        """Return the precision of matrix products on a device, which may be another than that of the training.

        A run keeps what "auto" stood for when it began on a CPU; one that says "auto" there is in float32.
        """
        if self.precision == "auto":
            return "bfloat16" if device == "cuda" else "float32"
        return "float32" if self.precision == "tf32" and device == "cpu" else self.precision

    def schedule(self) -> Schedule:
        """Return the learning rate as a function of the step."""
        return Schedule(self.learning_rate, self.steps, self.warmup, self.min_learning_rate, self.decay)
