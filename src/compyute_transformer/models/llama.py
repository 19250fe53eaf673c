"""Llama: a decoder-only language model of pre-norm blocks with RMS norms, rotary positions and gated feed-forwards.

One configuration has the options of its relatives:

    Llama 2, SmolLM2    the defaults, with their sizes
    Llama 3             rope_theta 500000, rope_scaling "llama3" from 3.1 on
    Mistral             window
    Qwen 2              attn_bias
    Qwen 3              qk_norm, and a head_dim of its own

Two options of other models are there for training from scratch: a soft cap (Gemma 2) and ALiBi (BLOOM, MPT).
"""

from dataclasses import dataclass
from math import sqrt
from typing import Literal, get_args

from ..arrays import Array
from ..errors import ConfigError, RangeError
from ..nn import init
from ..nn.attention import Implementation, MultiHeadAttention
from ..nn.block import PreNormBlock
from ..nn.dropout import Dropout, share_generator
from ..nn.embedding import Embedding
from ..nn.feed_forward import Gate, GatedFeedForward
from ..nn.linear import Linear
from ..nn.module import ModuleList
from ..nn.norm import RMSNorm
from ..nn.position import RotaryPosition
from ..ops.attention import Mask
from ..ops.position import alibi_slopes
from ..ops.rotary import RotaryScaling, rotary_frequencies
from ..random import DROPOUT, INITIALIZATION, Generator, default_seed
from .config import check_config
from .language import LanguageModel, ModelCache

__all__ = ["Llama", "LlamaConfig", "Positions"]

Positions = Literal["rotary", "alibi"]
RopeScaling = Literal["none", "linear", "dynamic", "llama3", "yarn"]
WIDEST_HEAD = 1 << 16


@dataclass(frozen=True)
class LlamaConfig:
    """The configuration of a Llama, saved with a run.

    num_kv_heads None means num_heads. head_dim None means embed_dim / num_heads. mlp_dim None means 8/3 · embed_dim,
    rounded up to a multiple of 32, so that three matrices have as many weights as the two of GPT. window: the number of
    positions up to its own that a query attends to; None for all. soft_cap: of the attention scores, see `Mask`; None
    for none. positions: "rotary", or "alibi": scores fall with the distance by `ops.position.alibi_slopes`, nothing is
    turned, and the fields that begin with rope_ have no effect.

    rope_theta: the base of the frequencies. rope_scaling and the fields that begin with rope_: see `ops.RotaryScaling`;
    rope_original_length None means context_length, rope_attention_factor None its default.
    """

    vocab_size: int
    context_length: int = 256
    embed_dim: int = 384
    num_heads: int = 6
    num_layers: int = 6
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    dropout: float = 0.0
    gate_activation: Gate = "silu"  # "silu": the feed-forward is SwiGLU
    attn_bias: bool = False  # in the projections of queries, keys and values
    attn_out_bias: bool = False  # in the output projection of attention
    mlp_bias: bool = False
    qk_norm: bool = False  # an RMS norm of each query and key, before it is turned
    norm_eps: float = 1e-5
    window: int | None = None
    tie_word_embeddings: bool = True  # the head uses the matrix of the token embedding
    attn_implementation: Implementation = "auto"
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = "none"
    rope_factor: float = 1.0
    rope_original_length: int | None = None
    rope_low_frequency_factor: float = 1.0
    rope_high_frequency_factor: float = 4.0
    rope_beta_fast: float = 32.0
    rope_beta_slow: float = 1.0
    rope_truncate: bool = True
    rope_attention_factor: float | None = None
    soft_cap: float | None = None
    positions: Positions = "rotary"

    def __post_init__(self) -> None:
        check_config(
            self,
            ("vocab_size", "context_length", "embed_dim", "num_heads", "num_layers"),
            ("num_kv_heads", "head_dim", "mlp_dim", "window", "rope_original_length"),
        )
        if self.gate_activation not in get_args(Gate):
            choices = ", ".join(get_args(Gate))
            raise ConfigError(f"LlamaConfig: gate_activation is one of {choices}, got {self.gate_activation!r}.")
        if self.positions not in get_args(Positions):
            raise ConfigError(f"LlamaConfig: positions are rotary or alibi, got {self.positions!r}.")
        if self.rope_scaling not in get_args(RopeScaling):
            choices = ", ".join(get_args(RopeScaling))
            raise ConfigError(f"LlamaConfig: rope_scaling is one of {choices}, got {self.rope_scaling!r}.")
        if not isinstance(self.norm_eps, int | float) or not 0.0 <= self.norm_eps < 1.0:
            raise ConfigError(f"LlamaConfig: norm_eps lies in [0, 1), got {self.norm_eps!r}.")
        if self.head_width > WIDEST_HEAD:
            raise ConfigError(f"LlamaConfig: a head is at most {WIDEST_HEAD:,} wide, got {self.head_width:,}.")
        if self.positions == "alibi":
            return
        try:
            rotary_frequencies(self.head_width, self.rope_theta, self.rotary_scaling)
        except RangeError as error:
            raise ConfigError(f"LlamaConfig: rotary positions cannot be computed with these sizes. {error}") from error

    @property
    def head_width(self) -> int:
        """D, the width of a head."""
        return self.embed_dim // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def mlp_width(self) -> int:
        """F, the hidden width of the feed-forward."""
        return -(-8 * self.embed_dim // 96) * 32 if self.mlp_dim is None else self.mlp_dim

    @property
    def rotary_scaling(self) -> RotaryScaling | None:
        """How the frequencies are scaled."""
        if self.rope_scaling == "none":
            return None
        return RotaryScaling(
            self.rope_scaling,
            self.rope_factor,
            self.context_length if self.rope_original_length is None else self.rope_original_length,
            self.rope_low_frequency_factor,
            self.rope_high_frequency_factor,
            self.rope_beta_fast,
            self.rope_beta_slow,
            self.rope_truncate,
            self.rope_attention_factor,
        )


class Llama(LanguageModel):
    """A decoder-only language model: ids (B, T) in, logits (B, T, V) out; position t attends to positions up to t.

    Positions enter by rotations of queries and keys, or by the distance between them, so nothing is added to the
    embedded tokens, and padding at the start of a row moves all positions of the row without any effect on its scores.

    Weights are normal with std 0.02; those that write to the residual stream are divided by √(2 · num_layers), as in
    `GPT`. generator: of the random numbers of dropout; part of the state of a run.

    Source: Touvron et al. 2023, "Llama 2"; Grattafiori et al. 2024, "The Llama 3 herd of models".
    """

    config: LlamaConfig

    def __init__(self, config: LlamaConfig, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        seed = default_seed(seed)
        self.generator = Generator(seed, DROPOUT)
        weights = Generator(seed, INITIALIZATION)
        C = config.embed_dim
        slopes = alibi_slopes(config.num_heads) if config.positions == "alibi" else None
        self.mask = Mask(causal=True, window=config.window, soft_cap=config.soft_cap, slopes=slopes)
        self.token_embedding = Embedding(config.vocab_size, C, generator=weights)
        self.dropout = Dropout(config.dropout)
        self.blocks = ModuleList(self._block(weights) for _ in range(config.num_layers))
        self.norm = RMSNorm(C, config.norm_eps)
        self.head = Linear(C, config.vocab_size, bias=False, generator=weights)
        if config.tie_word_embeddings:
            self.head.weight = self.token_embedding.weight
        share_generator(self, self.generator)
        self.lay_flat()  # all parameters lie in one buffer

    def _block(self, weights: Generator) -> PreNormBlock:
        config, C = self.config, self.config.embed_dim
        to_stream = init.normal(0.02 / sqrt(2 * config.num_layers))
        return PreNormBlock(
            RMSNorm(C, config.norm_eps),
            self._attention(weights, to_stream),
            Dropout(config.dropout),
            RMSNorm(C, config.norm_eps),
            GatedFeedForward(
                C,
                config.mlp_width,
                bias=config.mlp_bias,
                activation=config.gate_activation,
                weight_init=(init.normal(), to_stream),
                generator=weights,
            ),
            Dropout(config.dropout),
        )

    def _attention(self, weights: Generator, to_stream: init.Init) -> MultiHeadAttention:
        config, D = self.config, self.config.head_width
        return MultiHeadAttention(
            config.embed_dim,
            config.num_heads,
            config.num_kv_heads,
            head_dim=D,
            bias=config.attn_bias,
            out_bias=config.attn_out_bias,
            rotary=self._rotary(),
            q_norm=RMSNorm(D, config.norm_eps) if config.qk_norm else None,
            k_norm=RMSNorm(D, config.norm_eps) if config.qk_norm else None,
            dropout=config.dropout,
            implementation=config.attn_implementation,
            weight_init=(init.normal(), to_stream),
            generator=weights,
        )

    def _rotary(self) -> RotaryPosition | None:
        config = self.config
        if config.positions == "alibi":
            return None
        return RotaryPosition(config.head_width, theta=config.rope_theta, scaling=config.rotary_scaling)

    def forward(
        self,
        ids: Array | None = None,
        cache: ModelCache | None = None,
        *,
        padding: Array | None = None,
        logits_to_keep: int | None = None,
        inputs_embeds: Array | None = None,
    ) -> Array:
        """Return the logits (B, T, V) of the token that follows each position of ids; see `LanguageModel`."""
        start, padding = self.check_forward(ids, cache, padding, logits_to_keep, inputs_embeds)
        x = self.embed(ids, start, padding, inputs_embeds)
        x = self.run_blocks(x, cache, padding, logits_to_keep)
        return self.unembed(x)

    def backward(self, dlogits: Array) -> Array:
        """Add to the gradients of all parameters. Return the gradient (B, T, C) of the embedded tokens."""
        dx = self.head.backward(dlogits)
        dx = self.norm.backward(dx)
        for block in reversed(self.blocks):
            dx = block.backward(dx)
        dx = self.dropout.backward(dx)
        self.token_embedding.backward(dx)
        return dx

    def embed(
        self, ids: Array | None, start: int = 0, padding: Array | None = None, inputs_embeds: Array | None = None
    ) -> Array:
        """Return the residual stream (B, T, C) before the first block; each attention knows the positions itself."""
        return self.dropout(self.look_up(ids, inputs_embeds))

    def unembed(self, x: Array) -> Array:
        """Return the logits (B, T, V) of the residual stream (B, T, C) after the last block."""
        x = self.norm(x)
        return self.head(x)
