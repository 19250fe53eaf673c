"""The defaults of generation: generation_config.json, as Transformers reads it.

Without do_sample the most probable token is taken each time. A model may have several end tokens.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import DataError, RangeError
from ..generation.sampling import Sampling

__all__ = ["GenerationDefaults", "generation_defaults"]

# What changes the tokens and is not done here, with the value at which it does nothing.
WITHOUT_EFFECT = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "penalty_alpha": 0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "bad_words_ids": None,
    "force_words_ids": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "guidance_scale": None,
    "min_length": 0,
    "min_new_tokens": None,
    "dola_layers": None,
}
TOP_K = 50  # where a file that asks for sampling names none


class GenerationDefaults(NamedTuple):
    """How a model's makers generate with it. stop_ids: the end tokens. ignored: options that have no effect here."""

    sampling: Sampling
    stop_ids: tuple[int, ...] = ()
    max_new_tokens: int | None = None
    ignored: tuple[str, ...] = ()


def generation_defaults(values: Mapping[str, Any], vocab_size: int) -> GenerationDefaults:
    """Return the defaults that the values of generation_config.json say; {} for none.

    Raises:
        DataError: a value of the wrong type or outside its range.
    """
    ends = values.get("eos_token_id")
    stop_ids = tuple(ends if isinstance(ends, list) else [] if ends is None else [ends])
    if not all(_is_whole(end) for end in stop_ids):
        raise DataError(f"generation_config.json: eos_token_id is an id or a list of ids, got {ends!r}.")
    most = values.get("max_new_tokens")
    if most is not None and not _is_whole(most):
        raise DataError(f"generation_config.json: max_new_tokens is a whole number of at least 0, got {most!r}.")
    ignored = tuple(name for name, off in WITHOUT_EFFECT.items() if values.get(name) not in (None, off))
    # an end token outside the vocabulary is never written: some files name that of the model they began with
    return GenerationDefaults(_sampling(values), tuple(end for end in stop_ids if end < vocab_size), most, ignored)


def _is_whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _sampling(values: Mapping[str, Any]) -> Sampling:
    def number(name: str, default: Any) -> Any:
        value = values.get(name)
        if value is not None and type(value) not in (int, float):
            raise DataError(f"generation_config.json: {name} is a number, got {value!r}.")
        return default if value is None else value

    options: dict[str, Any] = {"repetition_penalty": number("repetition_penalty", 1.0), "temperature": 0.0}
    if values.get("do_sample"):
        top_p, min_p = number("top_p", 1.0), number("min_p", 0.0)
        options |= {"temperature": number("temperature", 1.0), "top_k": number("top_k", TOP_K) or None}
        options |= {"top_p": None if top_p == 1.0 else top_p, "min_p": min_p or None}
    try:
        return Sampling(**options)
    except RangeError as error:
        raise DataError(f"generation_config.json: {str(error).removeprefix('Sampling: ')}") from error
