"""LoRA on a whole model: by the names that its matrices have in a Hugging Face directory, and the files of PEFT.

    add_lora(model, rank=8, targets=["q_proj", "v_proj"])      # the model's own weights are frozen
    ... train ...
    save_adapter(model, "adapter", base="SmolLM2-135M")        # adapter_config.json, adapter_model.safetensors
    merge_lora(model)                                          # the same function without LoRA

    load_adapter(model, "adapter")                             # what PEFT or `save_adapter` wrote

Source: Hu et al. 2021, "LoRA: low-rank adaptation of large language models"; the files are those of PEFT 0.17.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

from .. import _io
from ..arrays import to_numpy
from ..errors import ConfigError, DataError, StateError
from ..nn.lora import LoRA, LoRAAttention, LoRALinear
from ..nn.module import Module
from ..random import Generator
from .names import family_of
from .tensors import as_floats, read_tensors, write_tensors

__all__ = ["ALL", "add_lora", "base_of", "is_adapter", "load_adapter", "merge_lora", "save_adapter"]

ALL = "all-linear"  # PEFT's word for every matrix of the blocks
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
STREAM = 5  # of the random numbers of the factors, beside those of the weights
MOST_FAULTS, MOST = 20, 1e300
# Fields of adapter_config.json that change what is computed, and the values with which they change nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "alora_invocation_tokens": (None,),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layer_replication": (None,),
    "target_parameters": (None, []),
    "lora_bias": (False, None),
    "megatron_config": (None,),
}


class Place(NamedTuple):
    """A matrix that LoRA can change. theirs: its module in a Hugging Face model. path: of our module.

    part: the parameter. rows: of in_weight. block: the number of its block. shape: of the matrix.
    """

    theirs: str
    path: str
    part: str
    rows: tuple[int, int]
    block: int
    shape: tuple[int, int]


def places(model: Any) -> list[Place]:
    """Return the matrices of all blocks. Raises ConfigError for a model that Transformers does not have."""
    family = family_of(model.config)
    if family is None:
        raise ConfigError(
            f"add_lora: LoRA goes by the names of Transformers, which has no {type(model).__name__}. Train all weights."
        )
    found = []
    for piece in family.pieces(model.config):
        path, _, part = piece.ours.rpartition(".")
        if not path.startswith("blocks.") or len(piece.shape) != 2:
            continue
        start = 0
        for name, shape in piece.theirs.items():
            rows, columns = shape[::-1] if piece.layout == "transposed" else shape
            block = int(path.split(".")[1])
            theirs = name.removesuffix(".weight")
            found.append(Place(theirs, path, part, (start, start + rows), block, (rows, columns)))
            start += rows
    return found


def add_lora(
    model: Any,
    rank: int = 8,
    alpha: float | None = None,
    targets: str | Sequence[str] = ALL,
    *,
    blocks: Sequence[int] | None = None,
    seed: int = 0,
) -> Any:
    """Freeze a model and put two narrow matrices beside those that the targets name. Return the model.

    alpha: the scale is alpha / rank; None means twice the rank. targets: the last parts of their names in a Hugging
    Face model, as PEFT takes them, "q_proj" or "mlp.c_fc"; "all-linear" for every matrix of the blocks. blocks: the
    numbers of the blocks; None for all. The model computes the same until it is trained.

    Raises:
        ConfigError: a target that names no matrix, a model that has LoRA already, or one that Transformers does not
        have. RangeError: a rank below one.
    """
    names = [targets] if isinstance(targets, str) else list(targets)
    known = places(model)
    wanted = [place for place in known if names == [ALL] or any(_ends_with(place.theirs, name) for name in names)]
    unknown = [name for name in names if name != ALL and not any(_ends_with(p.theirs, name) for p in known)]
    if unknown or not names:
        last = dict.fromkeys(place.theirs.rpartition(".")[2] for place in known)
        raise ConfigError(
            f"add_lora: targets name matrices of the model, which are {', '.join(last)}, or {ALL}; got "
            f"{', '.join(map(repr, unknown)) or 'none'}."
        )
    if blocks is not None:
        wanted = [place for place in wanted if place.block in blocks]
    _put(model, wanted, rank, 2.0 * rank if alpha is None else alpha, seed)
    return model


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _put(model: Any, wanted: Sequence[Place], rank: int, alpha: float, seed: int) -> None:
    """Freeze the model and give LoRA to each place."""
    if any(True for _ in adapters(model)):
        raise ConfigError("add_lora: the model has LoRA already. Merge it first: merge_lora(model).")
    model.requires_grad_(False)
    generator = Generator(seed, STREAM)
    modules = dict(model.named_modules())
    training = model.training
    for path in dict.fromkeys(place.path for place in wanted):
        own = [place for place in wanted if place.path == path]
        module: Any = modules[path]
        made: Any
        if own[0].part == "weight":
            made = LoRALinear(module, rank, alpha, generator=generator)
        else:
            rows = [place.rows for place in own if place.part == "in_weight"]
            out = any(place.part == "out_weight" for place in own)
            made = LoRAAttention(module, rows, out, rank, alpha, generator=generator)
        parent, _, name = path.rpartition(".")
        setattr(modules[parent], name, made)
        modules[path] = made
    model.train(training)


def adapters(model: Any) -> Iterator[tuple[Place, LoRA]]:
    """Yield each matrix that has LoRA, and its LoRA."""
    modules = dict(model.named_modules())
    if not any(isinstance(module, LoRA) for module in modules.values()):
        return
    for place in places(model):
        module = modules[place.path]
        if isinstance(module, LoRALinear):
            yield place, module.lora
        elif isinstance(module, LoRAAttention):
            if place.part == "out_weight" and module.lora_out is not None:
                yield place, module.lora_out
            elif place.part == "in_weight" and place.rows in module.rows:
                yield place, module.lora_in[module.rows.index(place.rows)]


def merge_lora(model: Any) -> Any:
    """Add the changes to the weights and take LoRA away. Return the model, which computes the same."""
    modules: dict[str, Module] = dict(model.named_modules())
    for path, module in modules.items():
        if isinstance(module, LoRALinear | LoRAAttention):
            parent, _, name = path.rpartition(".")
            merged = module.merge()
            merged.train(module._training)
            setattr(modules[parent], name, merged)
    return model


# --- PEFT's files ----------------------------------------------------------------------------------------------------


def is_adapter(path: str | Path) -> bool:
    """Return whether a path is a directory of PEFT."""
    return (Path(path) / CONFIG).is_file()


def save_adapter(model: Any, folder: str | Path, *, base: str = "", dtype: str = "float32") -> None:
    """Write the factors of a model with LoRA as PEFT does: adapter_config.json and adapter_model.safetensors.

    base: the model that they belong to, by which PEFT finds it.

    Raises:
        ConfigError: the model has no LoRA. DataError: the folder cannot be written.
    """
    found = list(adapters(model))
    if not found:
        raise ConfigError("save_adapter: the model has no LoRA. Give it some: add_lora(model).")
    rank = found[0][1].a.shape[0]
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if hasattr(model, "run_blocks") else None,
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": found[0][1].scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": type(model).__name__ == "GPT",  # GPT-2's matrices are (in, out)
        "target_modules": sorted(place.theirs for place, _ in found),
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
    }
    tensors = {}
    for place, module in found:
        tensors[f"{PREFIX}{place.theirs}.lora_A.weight"] = to_numpy(module.a.data)
        tensors[f"{PREFIX}{place.theirs}.lora_B.weight"] = to_numpy(module.b.data)
    folder = Path(folder)
    try:
        write_tensors(folder, dict(sorted(tensors.items())), dtype, whole=WEIGHTS)
        _io.replace_text(folder / CONFIG, json.dumps(values, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise DataError(f"save_adapter: {folder} must be a folder that can be written; it cannot: {error}.") from error


def load_adapter(model: Any, folder: str | Path) -> Any:
    """Give a model the LoRA of a directory of PEFT. Its own weights are frozen. Return the model.

    Raises:
        DataError: a file is missing or breaks its format. ConfigError: an option of PEFT that is not supported here.
        StateError: with every tensor that belongs to no matrix of the model, or has another shape.
    """
    folder = Path(folder)
    rank, scale = _read_config(folder)
    tensors = read_tensors(folder / WEIGHTS)
    named = {_module_of(name): name for name in tensors}
    known = {place.theirs: place for place in places(model)}
    faults, wanted = [], []
    for module in dict.fromkeys(theirs for theirs, _ in named):
        place = known.get(module)
        if place is None:
            faults.append(f"no matrix of the model: {module or 'a name that is no LoRA factor'}")
            continue
        wanted.append(place)
        for factor, shape in (("A", (rank, place.shape[1])), ("B", (place.shape[0], rank))):
            name = named.get((module, factor))
            if name is None:
                faults.append(f"missing: lora_{factor} of {module}")
            elif tensors.shape(name) != shape:
                faults.append(f"other shape: {name} is {tensors.shape(name)}, and the model asks for {shape}")
    if faults or not wanted:
        raise StateError(
            f"load_adapter: the tensors of {folder} must be factors of matrices of the model.\n  "
            + "\n  ".join(faults[:MOST_FAULTS] or ["there are none"])
            + "\nGive the model that the adapter was trained on."
        )
    order = {place: number for number, place in enumerate(known.values())}
    _put(model, sorted(wanted, key=order.__getitem__), rank, scale * rank, 0)
    for place, lora in adapters(model):
        for factor, parameter in (("A", lora.a), ("B", lora.b)):
            parameter.data[...] = as_floats(tensors[named[place.theirs, factor]], parameter.data.dtype)
    return model


def _module_of(name: str) -> tuple[str, str]:
    """Return the module and the factor of a tensor, "A" or "B"; two empty texts for any other tensor."""
    for factor in "AB":
        for ending in (f".lora_{factor}.weight", f".lora_{factor}.default.weight"):
            if name.startswith(PREFIX) and name.endswith(ending):
                return name.removeprefix(PREFIX).removesuffix(ending), factor
    return "", name


def _read_config(folder: Path) -> tuple[int, float]:
    """Return the rank and the scale."""
    values = adapter_values(folder)
    if values.get("peft_type") != "LORA":
        raise ConfigError(f"load_adapter: an adapter is of the type LORA, got {str(values.get('peft_type'))[:40]!r}.")
    found = {name: values[name] for name in NEUTRAL if name in values}
    other = [f"{name} {value!r}"[:80] for name, value in found.items() if value not in NEUTRAL[name]]
    if other:
        raise ConfigError(f"load_adapter: LoRA alone is supported, got {', '.join(other)}.")
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= 1 << 16:
        raise DataError(f"load_adapter: r is a whole number from 1 on, got {str(rank)[:40]}.")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= MOST:
        raise DataError(f"load_adapter: lora_alpha is a number, got {str(alpha)[:40]}.")
    return rank, float(alpha) / (sqrt(rank) if values.get("use_rslora") else rank)


def base_of(folder: str | Path) -> str:
    """Return the model that an adapter belongs to. Raises DataError where it names none."""
    base = adapter_values(folder).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise DataError(
            f"load_adapter: {Path(folder) / CONFIG} has no base_model_name_or_path, the model that it belongs to. "
            "Write its path there."
        )
    return base


def adapter_values(folder: str | Path) -> Mapping[str, Any]:
    """Return the values of adapter_config.json. Raises DataError."""
    path = Path(folder) / CONFIG
    try:
        values = _io.read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"load_adapter: {path} must hold a JSON object: {str(error)[:300]}.") from error
    if not isinstance(values, dict):
        raise DataError(f"load_adapter: {path} must hold a JSON object, got a {type(values).__name__}.")
    return values
