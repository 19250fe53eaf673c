"""Names and layouts: which tensors of a Hugging Face file are which parameter of ours.

A `Piece` is one parameter of ours and the tensors it is made of:

    same         one tensor, in our shape: (1, N, C) becomes (N, C)
    transposed   one tensor, whose axes are swapped: GPT-2 stores (in, out)
    rows         several tensors below each other: queries, keys and values
    patches      (C, channels, P, P), whose columns become (row, column, channel) of a patch
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ..arrays import Array
from ..models.bert import BertConfig
from ..models.gpt import GPTConfig
from ..models.llama import LlamaConfig
from ..models.vit import ViTConfig

__all__ = ["FAMILIES", "Family", "Piece", "family_of"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """One parameter of ours. theirs: the shapes of its tensors by name. shape: of ours."""

    ours: str
    theirs: Mapping[str, Shape]
    shape: Shape
    layout: Literal["same", "transposed", "rows", "patches"] = "same"

    def read(self, tensors: Mapping[str, Array]) -> Array:
        """Return our parameter from their tensors."""
        arrays = [tensors[name] for name in self.theirs]
        if self.layout == "rows":
            return np.concatenate(arrays)
        (array,) = arrays
        if self.layout == "transposed":
            return array.T
        if self.layout == "patches":
            array = array.transpose(0, 2, 3, 1)
        return array.reshape(self.shape)

    def write(self, array: Array) -> dict[str, Array]:
        """Return their tensors from our parameter."""
        if self.layout == "rows":
            ends = np.cumsum([shape[0] for shape in self.theirs.values()])
            return dict(zip(self.theirs, np.split(array, ends[:-1]), strict=True))
        ((name, shape),) = self.theirs.items()
        if self.layout == "transposed":
            return {name: array.T}
        if self.layout == "patches":
            C, channels, P, _ = shape
            return {name: array.reshape(C, P, P, channels).transpose(0, 3, 1, 2)}
        return {name: array.reshape(shape)}


class Family(NamedTuple):
    """An architecture. prefix: what complete models write before their names, and others leave out.

    pieces: of a configuration. head: the tensor of the head. ignored: names that mean nothing, as a pattern. renamed:
    patterns of other spellings and what they become.
    """

    prefix: str
    pieces: Callable[[Any], list[Piece]]
    head: str
    ignored: str
    renamed: tuple[tuple[str, str], ...] = ()

    def canonical(self, name: str) -> str | None:
        """Return the name with its prefix and in its first spelling; None for one that means nothing."""
        bare = name.removeprefix(self.prefix)
        for pattern, replacement in self.renamed:
            bare = re.sub(pattern, replacement, bare)
        if re.fullmatch(self.ignored, bare):
            return None
        return bare if bare == self.head or bare.startswith(self.head.partition(".")[0] + ".") else self.prefix + bare

    def written(self, name: str, config: Any) -> str:
        """Return the name that is written: a Bert without a head is a model without what prefixes stand for."""
        return name if getattr(config, "masked_head", True) else name.removeprefix(self.prefix)


def vector(ours: str, theirs: str, n: int) -> Piece:
    return Piece(ours, {theirs: (n,)}, (n,))


def matrix(ours: str, theirs: str, rows: int, columns: int, transposed: bool = False) -> Piece:
    shape = (rows, columns)
    return Piece(ours, {theirs: shape[::-1] if transposed else shape}, shape, "transposed" if transposed else "same")


def stacked(ours: str, theirs: Mapping[str, int], *columns: int) -> Piece:
    """Tensors below each other, of so many rows each; biases have no columns."""
    shapes = {name: (rows, *columns) for name, rows in theirs.items()}
    return Piece(ours, shapes, (sum(theirs.values()), *columns), "rows")


def gpt_pieces(config: GPTConfig) -> list[Piece]:
    """GPT-2: weights of blocks are stored as (in, out)."""
    C, F = config.embed_dim, config.mlp_dim or 4 * config.embed_dim
    pieces = [
        matrix("token_embedding.weight", "transformer.wte.weight", config.vocab_size, C),
        matrix("position.weight", "transformer.wpe.weight", config.context_length, C),
    ]
    for i in range(config.num_layers):
        ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
        for name, norm in (("attention_norm", "ln_1"), ("feed_forward_norm", "ln_2")):
            pieces += [vector(f"{ours}.{name}.{part}", f"{theirs}.{norm}.{part}", C) for part in ("weight", "bias")]
        for name, linear, rows, columns in (
            ("attention.in_", "attn.c_attn", 3 * C, C),
            ("attention.out_", "attn.c_proj", C, C),
            ("feed_forward.up.", "mlp.c_fc", F, C),
            ("feed_forward.down.", "mlp.c_proj", C, F),
        ):
            pieces.append(matrix(f"{ours}.{name}weight", f"{theirs}.{linear}.weight", rows, columns, transposed=True))
            pieces.append(vector(f"{ours}.{name}bias", f"{theirs}.{linear}.bias", rows))
    pieces += [vector(f"norm.{part}", f"transformer.ln_f.{part}", C) for part in ("weight", "bias")]
    if not config.tie_word_embeddings:
        pieces.append(matrix("head.weight", "lm_head.weight", config.vocab_size, C))
    return pieces


def llama_pieces(config: LlamaConfig) -> list[Piece]:
    """Llama, Mistral, Qwen 2 and 3."""
    C, D, H = config.embed_dim, config.head_width, config.num_heads
    K, F = config.num_kv_heads or H, config.mlp_width
    rows = {"q_proj": H * D, "k_proj": K * D, "v_proj": K * D}
    pieces = [matrix("token_embedding.weight", "model.embed_tokens.weight", config.vocab_size, C)]
    for i in range(config.num_layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        attn = f"{theirs}.self_attn"
        pieces.append(vector(f"{ours}.attention_norm.weight", f"{theirs}.input_layernorm.weight", C))
        weights = {f"{attn}.{name}.weight": n for name, n in rows.items()}
        pieces.append(stacked(f"{ours}.attention.in_weight", weights, C))
        if config.attn_bias:
            biases = {f"{attn}.{name}.bias": n for name, n in rows.items()}
            pieces.append(stacked(f"{ours}.attention.in_bias", biases))
        pieces.append(matrix(f"{ours}.attention.out_weight", f"{attn}.o_proj.weight", C, H * D))
        if config.attn_out_bias:
            pieces.append(vector(f"{ours}.attention.out_bias", f"{attn}.o_proj.bias", C))
        if config.qk_norm:
            pieces += [vector(f"{ours}.attention.{x}_norm.weight", f"{attn}.{x}_norm.weight", D) for x in "qk"]
        pieces.append(vector(f"{ours}.feed_forward_norm.weight", f"{theirs}.post_attention_layernorm.weight", C))
        for name, out, inner in (("gate", F, C), ("up", F, C), ("down", C, F)):
            linear = f"{theirs}.mlp.{name}_proj"
            pieces.append(matrix(f"{ours}.feed_forward.{name}.weight", f"{linear}.weight", out, inner))
            if config.mlp_bias:
                pieces.append(vector(f"{ours}.feed_forward.{name}.bias", f"{linear}.bias", out))
    pieces.append(vector("norm.weight", "model.norm.weight", C))
    if not config.tie_word_embeddings:
        pieces.append(matrix("head.weight", "lm_head.weight", config.vocab_size, C))
    return pieces


def bert_pieces(config: BertConfig) -> list[Piece]:
    """BERT, with or without the head that predicts tokens."""
    C, F, embeddings = config.embed_dim, config.mlp_dim or 4 * config.embed_dim, "bert.embeddings"
    pieces = [
        matrix("token_embedding.weight", f"{embeddings}.word_embeddings.weight", config.vocab_size, C),
        matrix("position.weight", f"{embeddings}.position_embeddings.weight", config.context_length, C),
        matrix("type_embedding.weight", f"{embeddings}.token_type_embeddings.weight", config.num_token_types, C),
        *(vector(f"embedding_norm.{part}", f"{embeddings}.LayerNorm.{part}", C) for part in ("weight", "bias")),
    ]
    for i in range(config.num_layers):
        ours, theirs = f"blocks.{i}", f"bert.encoder.layer.{i}"
        for part, columns in (("weight", (C,)), ("bias", ())):
            rows = {f"{theirs}.attention.self.{x}.{part}": C for x in ("query", "key", "value")}
            pieces.append(stacked(f"{ours}.attention.in_{part}", rows, *columns))
        for name, linear, out, inner in (
            ("attention.out_", "attention.output.dense", C, C),
            ("feed_forward.up.", "intermediate.dense", F, C),
            ("feed_forward.down.", "output.dense", C, F),
        ):
            pieces.append(matrix(f"{ours}.{name}weight", f"{theirs}.{linear}.weight", out, inner))
            pieces.append(vector(f"{ours}.{name}bias", f"{theirs}.{linear}.bias", out))
        for name, norm in (("attention_norm", "attention.output"), ("feed_forward_norm", "output")):
            norms = f"{theirs}.{norm}.LayerNorm"
            pieces += [vector(f"{ours}.{name}.{part}", f"{norms}.{part}", C) for part in ("weight", "bias")]
    if config.masked_head:
        head = "cls.predictions"
        pieces.append(matrix("transform.weight", f"{head}.transform.dense.weight", C, C))
        pieces.append(vector("transform.bias", f"{head}.transform.dense.bias", C))
        for part in ("weight", "bias"):
            pieces.append(vector(f"transform_norm.{part}", f"{head}.transform.LayerNorm.{part}", C))
        pieces.append(vector("head.bias", f"{head}.bias", config.vocab_size))
        if not config.tie_word_embeddings:
            pieces.append(matrix("head.weight", f"{head}.decoder.weight", config.vocab_size, C))
    return pieces


def vit_pieces(config: ViTConfig) -> list[Piece]:
    """ViT that classifies images, in the names of Transformers 4, which version 5 still writes."""
    C, P, F = config.embed_dim, config.patch_size, config.mlp_dim or 4 * config.embed_dim
    positions = (1 + config.num_patches, C)
    patches = {"vit.embeddings.patch_embeddings.projection.weight": (C, config.channels, P, P)}
    pieces = [
        Piece("class_token.weight", {"vit.embeddings.cls_token": (1, 1, C)}, (C,)),
        Piece("position.weight", {"vit.embeddings.position_embeddings": (1, *positions)}, positions),
        Piece("patch_embedding.weight", patches, (C, P * P * config.channels), "patches"),
        vector("patch_embedding.bias", "vit.embeddings.patch_embeddings.projection.bias", C),
    ]
    for i in range(config.num_layers):
        ours, theirs = f"blocks.{i}", f"vit.encoder.layer.{i}"
        attn = f"{theirs}.attention.attention"
        for name, norm in (("attention_norm", "layernorm_before"), ("feed_forward_norm", "layernorm_after")):
            pieces += [vector(f"{ours}.{name}.{part}", f"{theirs}.{norm}.{part}", C) for part in ("weight", "bias")]
        for part, columns in (("weight", (C,)), ("bias", ())):
            rows = {f"{attn}.{x}.{part}": C for x in ("query", "key", "value")}
            pieces.append(stacked(f"{ours}.attention.in_{part}", rows, *columns))
        for name, linear, out, inner in (
            ("attention.out_", "attention.output.dense", C, C),
            ("feed_forward.up.", "intermediate.dense", F, C),
            ("feed_forward.down.", "output.dense", C, F),
        ):
            pieces.append(matrix(f"{ours}.{name}weight", f"{theirs}.{linear}.weight", out, inner))
            pieces.append(vector(f"{ours}.{name}bias", f"{theirs}.{linear}.bias", out))
    pieces += [vector(f"norm.{part}", f"vit.layernorm.{part}", C) for part in ("weight", "bias")]
    pieces.append(matrix("head.weight", "classifier.weight", config.num_classes, C))
    pieces.append(vector("head.bias", "classifier.bias", config.num_classes))
    return pieces


# What Transformers 5 calls the parts of a ViT in memory; some files have these names.
VIT_OF_VERSION_5 = (
    (r"^layers\.(\d+)\.attention\.q_proj\.", r"encoder.layer.\1.attention.attention.query."),
    (r"^layers\.(\d+)\.attention\.k_proj\.", r"encoder.layer.\1.attention.attention.key."),
    (r"^layers\.(\d+)\.attention\.v_proj\.", r"encoder.layer.\1.attention.attention.value."),
    (r"^layers\.(\d+)\.attention\.o_proj\.", r"encoder.layer.\1.attention.output.dense."),
    (r"^layers\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
    (r"^layers\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
    (r"^layers\.(\d+)\.layernorm_", r"encoder.layer.\1.layernorm_"),
)

# Parts of a BERT that predict nothing here: a pooled vector, whether a sentence follows, positions, a second bias.
BERT_IGNORED = (
    r"embeddings\.position_ids|pooler\.dense\.(weight|bias)"
    r"|cls\.(seq_relationship\.(weight|bias)|predictions\.decoder\.bias)"
)
OLD_NORMS = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))

FAMILIES: dict[type, Family] = {
    BertConfig: Family("bert.", bert_pieces, "cls.predictions.decoder.weight", BERT_IGNORED, OLD_NORMS),
    GPTConfig: Family("transformer.", gpt_pieces, "lm_head.weight", r"h\.\d+\.attn\.(bias|masked_bias)"),
    LlamaConfig: Family("model.", llama_pieces, "lm_head.weight", r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),
    ViTConfig: Family("vit.", vit_pieces, "classifier.weight", r"pooler\.dense\.(weight|bias)", VIT_OF_VERSION_5),
}


def family_of(config: Any) -> Family | None:
    """Return the family of a configuration of ours; None where Transformers has no such architecture."""
    return FAMILIES.get(type(config))
