"""TransformerLM: the decoder of Vaswani et al. 2017 as a language model, post-norm, with sinusoidal positions.

The whole model of the paper, with its encoder, is `transformer`.
"""

from dataclasses import dataclass
from math import sqrt

from .._arguments import CheckedArguments
from ..arrays import Array
from ..nn import init
from ..nn.attention import Implementation, MultiHeadAttention
from ..nn.block import PostNormBlock
from ..nn.dropout import Dropout, share_generator
from ..nn.embedding import Embedding
from ..nn.feed_forward import Activation, FeedForward
from ..nn.linear import Linear
from ..nn.module import ModuleList
from ..nn.norm import LayerNorm
from ..nn.position import SinusoidalPosition
from ..ops.attention import Mask
from ..random import DROPOUT, INITIALIZATION, Generator, default_seed
from .config import check_config
from .language import LanguageModel, ModelCache

__all__ = ["TransformerLM", "TransformerLMConfig"]


@dataclass(frozen=True)
class TransformerLMConfig(CheckedArguments):
    """The configuration of a TransformerLM, saved with a run.

    mlp_dim None means 4 · embed_dim, as in the paper. num_kv_heads None means num_heads. window: the number of
    positions up to its own that a query attends to; None for all. attn_bias None means bias.
    """

    vocab_size: int
    context_length: int = 256
    embed_dim: int = 384
    num_heads: int = 6
    num_layers: int = 6
    num_kv_heads: int | None = None
    mlp_dim: int | None = None
    dropout: float = 0.0
    bias: bool = True  # in linears and norms
    activation: Activation = "relu"
    window: int | None = None
    attn_implementation: Implementation = "auto"
    attn_bias: bool | None = None  # in the projections of attention
    head_bias: bool = False
    scale_embedding: bool = True  # multiply the embedding by √embed_dim, as in the paper

    def __post_init__(self) -> None:
        check_config(
            self,
            ("vocab_size", "context_length", "embed_dim", "num_heads", "num_layers"),
            ("num_kv_heads", "mlp_dim", "window"),
        )


class TransformerLM(LanguageModel):
    """A decoder-only language model: ids (B, T) in, logits (B, T, V) out; position t attends to positions up to t.

    One matrix is both the embedding, multiplied by √embed_dim, and the head (Vaswani et al. 2017, section 3.4). Dropout
    follows the embedding and every sublayer (5.4), and drops attention weights too.

    The paper does not say how weights are initialized. Here the shared matrix is normal with std 1/√embed_dim, as in
    the authors' tensor2tensor, so that vectors and logits both have variance 1; all other matrices are Xavier uniform,
    as in torch.nn.Transformer.

    generator: of the random numbers of dropout; part of the state of a run.
    """

    config: TransformerLMConfig

    def __init__(self, config: TransformerLMConfig, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        seed = default_seed(seed)
        self.generator = Generator(seed, DROPOUT)
        weights = Generator(seed, INITIALIZATION)
        C = config.embed_dim
        self.mask = Mask(causal=True, window=config.window)
        self.scale = sqrt(C) if config.scale_embedding else 1.0
        self.token_embedding = Embedding(config.vocab_size, C, weight_init=init.normal(C**-0.5), generator=weights)
        self.position = SinusoidalPosition()
        self.dropout = Dropout(config.dropout)
        self.blocks = ModuleList(self._block(weights) for _ in range(config.num_layers))
        self.head = Linear(C, config.vocab_size, bias=config.head_bias, generator=weights)
        self.head.weight = self.token_embedding.weight
        share_generator(self, self.generator)
        self.lay_flat()  # all parameters lie in one buffer

    def _block(self, weights: Generator) -> PostNormBlock:
        config, C, xavier = self.config, self.config.embed_dim, init.xavier_uniform()
        return PostNormBlock(
            MultiHeadAttention(
                C,
                config.num_heads,
                num_kv_heads=config.num_kv_heads,
                bias=config.bias if config.attn_bias is None else config.attn_bias,
                dropout=config.dropout,
                implementation=config.attn_implementation,
                weight_init=xavier,
                generator=weights,
            ),
            Dropout(config.dropout),
            LayerNorm(C, bias=config.bias),
            FeedForward(
                C,
                config.mlp_dim or 4 * C,
                bias=config.bias,
                activation=config.activation,
                weight_init=xavier,
                generator=weights,
            ),
            Dropout(config.dropout),
            LayerNorm(C, bias=config.bias),
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
        """Add to the gradients of all parameters. Return the gradient (B, T, C) of the embedded tokens, unscaled."""
        dx = self.head.backward(dlogits)
        for block in reversed(self.blocks):
            dx = block.backward(dx)
        dx = self.dropout.backward(dx)
        dx = self.position.backward(dx)
        dx = dx * self.scale
        self.token_embedding.backward(dx)
        return dx

    def embed(
        self, ids: Array | None, start: int = 0, padding: Array | None = None, inputs_embeds: Array | None = None
    ) -> Array:
        """Return the residual stream (B, T, C) before the first block, of ids that begin at position `start`."""
        x = self.look_up(ids, inputs_embeds) * self.scale
        x = self.position(x, start, padding)
        return self.dropout(x)

    def unembed(self, x: Array) -> Array:
        """Return the logits (B, T, V) of the residual stream (B, T, C) after the last block."""
        return self.head(x)
