"""BERT: an encoder of texts that predicts hidden tokens from both sides, or gives a vector for each token.

Devlin et al. 2019, "BERT: pre-training of deep bidirectional transformers for language understanding".
"""

from dataclasses import dataclass

from .._arguments import CheckedArguments
from ..arrays import Array, array_module
from ..errors import ConfigError
from ..nn import init
from ..nn.attention import Implementation, MultiHeadAttention
from ..nn.block import PostNormBlock
from ..nn.dropout import Dropout, share_generator
from ..nn.embedding import Embedding
from ..nn.feed_forward import Activation, FeedForward
from ..nn.linear import Linear
from ..nn.module import ModuleList
from ..nn.norm import LayerNorm
from ..nn.position import LearnedPosition
from ..ops.activation import ACTIVATIONS
from ..ops.attention import Mask
from ..random import DROPOUT, INITIALIZATION, Generator, default_seed
from .config import check_config
from .language import check_context, check_ids, use_attention
from .output import Model

__all__ = ["Bert", "BertConfig"]


@dataclass(frozen=True)
class BertConfig(CheckedArguments):
    """The configuration of a Bert, saved with a run.

    mlp_dim None means 4 · embed_dim. num_token_types: kinds of tokens, such as those of a first and of a second
    sentence. masked_head: whether the model predicts tokens; without, its output is the vectors of the last block.
    """

    vocab_size: int
    context_length: int = 512
    embed_dim: int = 768
    num_heads: int = 12
    num_layers: int = 12
    mlp_dim: int | None = None
    num_token_types: int = 2
    dropout: float = 0.0
    activation: Activation = "gelu"
    norm_eps: float = 1e-12
    masked_head: bool = True
    tie_word_embeddings: bool = True  # the head uses the matrix of the token embedding
    attn_implementation: Implementation = "auto"

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "context_length", "embed_dim", "num_heads", "num_layers", "num_token_types")
        check_config(self, sizes, ("mlp_dim",))
        if not isinstance(self.norm_eps, int | float) or not 0.0 <= self.norm_eps < 1.0:
            raise ConfigError(f"BertConfig: norm_eps lies in [0, 1), got {self.norm_eps!r}.")


class Bert(Model):
    """An encoder of texts: ids (B, T) in, logits (B, T, V) of the token at each position out.

    Each position attends to all positions of its text, so a token is predicted where the input has a mask token in its
    place. Blocks are post-norm; the embedding, a sum of token, type and position, is normalized too. The head is a
    linear map, the activation and a norm, then the matrix of the token embedding with a bias for each token.

    Matrices of blocks are initialized Xavier uniform: with the published std of 0.02, which suits a width of 768, all
    attention is uniform in a narrow model, which then is slow to learn that neighbors matter. The embeddings and the
    head are normal with std 0.02. generator: of the random numbers of dropout; part of the state of a run.
    """

    config: BertConfig

    def __init__(self, config: BertConfig, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        seed = default_seed(seed)
        self.generator = Generator(seed, DROPOUT)
        weights = Generator(seed, INITIALIZATION)
        C, eps = config.embed_dim, config.norm_eps
        self.token_embedding = Embedding(config.vocab_size, C, generator=weights)
        self.type_embedding = Embedding(config.num_token_types, C, generator=weights)
        self.position = LearnedPosition(config.context_length, C, generator=weights)
        self.embedding_norm = LayerNorm(C, eps)
        self.dropout = Dropout(config.dropout)
        self.blocks = ModuleList(self._block(weights) for _ in range(config.num_layers))
        if config.masked_head:
            self.transform = Linear(C, C, generator=weights)
            self.transform_norm = LayerNorm(C, eps)
            self.head = Linear(C, config.vocab_size, generator=weights)
            if config.tie_word_embeddings:
                self.head.weight = self.token_embedding.weight
        share_generator(self, self.generator)
        self.lay_flat()  # all parameters lie in one buffer

    def _block(self, weights: Generator) -> PostNormBlock:
        config, C, xavier = self.config, self.config.embed_dim, init.xavier_uniform()
        return PostNormBlock(
            MultiHeadAttention(
                C,
                config.num_heads,
                dropout=config.dropout,
                implementation=config.attn_implementation,
                weight_init=xavier,
                generator=weights,
            ),
            Dropout(config.dropout),
            LayerNorm(C, config.norm_eps),
            FeedForward(
                C, config.mlp_dim or 4 * C, activation=config.activation, weight_init=xavier, generator=weights
            ),
            Dropout(config.dropout),
            LayerNorm(C, config.norm_eps),
        )

    def forward(self, ids: Array, lengths: Array | None = None, token_types: Array | None = None) -> Array:
        """Return the logits (B, T, V) of the token at each position; without a head, the vectors (B, T, C).

        lengths: (B) integers, the number of tokens of each text; those after are padding, to which nothing attends.
        token_types: (B, T) integers, by default 0.

        Raises:
            ShapeError: ids are no array (B, T) with T at least 1. RangeError: an id or a type outside its range, or a
            text longer than context_length.
        """
        x = self.encode(ids, lengths, token_types)
        return self.predict(x) if self.config.masked_head else x

    def backward(self, dlogits: Array) -> Array:
        """Add to the gradients of all parameters. Return the gradient (B, T, C) of the embedded tokens."""
        dx = self.predict_backward(dlogits) if self.config.masked_head else dlogits
        for block in reversed(self.blocks):
            dx = block.backward(dx)
        dx = self.dropout.backward(dx)
        dx = self.embedding_norm.backward(dx)
        dx = self.position.backward(dx)
        self.type_embedding.backward(dx)
        self.token_embedding.backward(dx)
        return dx

    def encode(self, ids: Array, lengths: Array | None = None, token_types: Array | None = None) -> Array:
        """Return the vectors (B, T, C) after the last block; see `forward`."""
        check_ids("Bert", "ids", ids)
        check_context("Bert", "ids", ids, self.config.context_length)
        types = array_module(ids).zeros_like(ids) if token_types is None else token_types
        mask = Mask(key_lengths=lengths)
        x = self.token_embedding(ids)
        x = x + self.type_embedding(types)
        x = self.position(x)
        x = self.embedding_norm(x)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, mask)
        return x

    def predict(self, x: Array) -> Array:
        """Return the logits (B, T, V) of the vectors (B, T, C) after the last block."""
        activation, _ = ACTIVATIONS[self.config.activation]
        x, saved = activation(self.transform(x))
        self.save_for_backward(saved)
        x = self.transform_norm(x)
        return self.head(x)

    def predict_backward(self, dlogits: Array) -> Array:
        """Return the gradient of the vectors after the last block."""
        _, activation_backward = ACTIVATIONS[self.config.activation]
        dx = self.head.backward(dlogits)
        dx = self.transform_norm.backward(dx)
        dx = activation_backward(dx, self.pop_saved())
        return self.transform.backward(dx)

    def use_attention(self, implementation: Implementation) -> None:
        """Change the attention algorithm of every block; the weights stay."""
        use_attention(self, implementation)
