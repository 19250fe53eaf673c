"""GPT: a decoder-only language model of pre-norm blocks with learned positions (Radford et al. 2019)."""

from dataclasses import dataclass
from math import sqrt

from .._arguments import CheckedArguments
from ..arrays import Array
from ..nn import init
from ..nn.attention import Implementation, MultiHeadAttention
from ..nn.block import PreNormBlock
from ..nn.dropout import Dropout, share_generator
from ..nn.embedding import Embedding
from ..nn.feed_forward import Activation, FeedForward
from ..nn.linear import Linear
from ..nn.module import ModuleList
from ..nn.norm import LayerNorm
from ..nn.position import LearnedPosition
from ..ops.attention import Mask
from ..random import DROPOUT, INITIALIZATION, Generator, default_seed
from .config import check_config
from .language import LanguageModel, ModelCache

__all__ = ["GPT", "GPTConfig"]


@dataclass(frozen=True)
class GPTConfig(CheckedArguments):
    """The configuration of a GPT, saved with a run.

    mlp_dim None means 4 · embed_dim. num_kv_heads None means num_heads. window: the number of positions up to its own
    that a query attends to; None for all. soft_cap: of the attention scores, see `Mask`; None for none. norm_eps: added
    to the variance in the norms.
    """

    vocab_size: int
    context_length: int = 256
    embed_dim: int = 384
    num_heads: int = 6
    num_layers: int = 6
    num_kv_heads: int | None = None
    mlp_dim: int | None = None
    dropout: float = 0.0
    bias: bool = True  # in linears and norms; nanoGPT trains without, GPT-2 with
    activation: Activation = "gelu_tanh"
    window: int | None = None
    tie_word_embeddings: bool = True  # the head uses the matrix of the token embedding
    attn_implementation: Implementation = "auto"
    norm_eps: float = 1e-5
    soft_cap: float | None = None

    def __post_init__(self) -> None:
        check_config(
            self,
            ("vocab_size", "context_length", "embed_dim", "num_heads", "num_layers"),
            ("num_kv_heads", "mlp_dim", "window"),
        )


class GPT(LanguageModel):
    """A decoder-only language model: ids (B, T) in, logits (B, T, V) out; position t attends to positions up to t.

    Weights are normal with std 0.02; those that write to the residual stream are divided by √(2 · num_layers), the
    number of additions to the stream, so that its size does not grow with depth (Radford et al. 2019).

    generator: of the random numbers of dropout; part of the state of a run.
    """

    config: GPTConfig

    def __init__(self, config: GPTConfig, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        seed = default_seed(seed)
        self.generator = Generator(seed, DROPOUT)
        weights = Generator(seed, INITIALIZATION)
        C = config.embed_dim
        self.mask = Mask(causal=True, window=config.window, soft_cap=config.soft_cap)
        self.token_embedding = Embedding(config.vocab_size, C, generator=weights)
        self.position = LearnedPosition(config.context_length, C, generator=weights)
        self.dropout = Dropout(config.dropout)
        self.blocks = ModuleList(self._block(weights) for _ in range(config.num_layers))
        self.norm = LayerNorm(C, eps=config.norm_eps, bias=config.bias)
        self.head = Linear(C, config.vocab_size, bias=False, generator=weights)
        if config.tie_word_embeddings:
            self.head.weight = self.token_embedding.weight
        share_generator(self, self.generator)
        self.lay_flat()  # all parameters lie in one buffer

    def _block(self, weights: Generator) -> PreNormBlock:
        config, C = self.config, self.config.embed_dim
        to_stream = init.normal(0.02 / sqrt(2 * config.num_layers))
        return PreNormBlock(
            LayerNorm(C, eps=config.norm_eps, bias=config.bias),
            MultiHeadAttention(
                C,
                config.num_heads,
                num_kv_heads=config.num_kv_heads,
                bias=config.bias,
                dropout=config.dropout,
                implementation=config.attn_implementation,
                weight_init=(init.normal(), to_stream),
                generator=weights,
            ),
            Dropout(config.dropout),
            LayerNorm(C, eps=config.norm_eps, bias=config.bias),
            FeedForward(
                C,
                config.mlp_dim or 4 * C,
                bias=config.bias,
                activation=config.activation,
                weight_init=(init.normal(), to_stream),
                generator=weights,
            ),
            Dropout(config.dropout),
        )

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
        dx = self.position.backward(dx)
        self.token_embedding.backward(dx)
        return dx

    def embed(
        self, ids: Array | None, start: int = 0, padding: Array | None = None, inputs_embeds: Array | None = None
    ) -> Array:
        """Return the residual stream (B, T, C) before the first block, of ids that begin at position `start`."""
        x = self.look_up(ids, inputs_embeds)
        x = self.position(x, start, padding)
        return self.dropout(x)

    def unembed(self, x: Array) -> Array:
        """Return the logits (B, T, V) of the residual stream (B, T, C) after the last block."""
        x = self.norm(x)
        return self.head(x)
