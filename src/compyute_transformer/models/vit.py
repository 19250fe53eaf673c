"""ViT: a vision transformer, which classifies an image as a sequence of patches.

Dosovitskiy et al. 2021, "An image is worth 16x16 words: transformers for image recognition at scale".
"""

from dataclasses import dataclass

from .._arguments import CheckedArguments
from ..arrays import Array, array_module
from ..errors import ConfigError, ShapeError
from ..nn import init
from ..nn.attention import Implementation, MultiHeadAttention
from ..nn.block import PreNormBlock
from ..nn.dropout import Dropout, share_generator
from ..nn.embedding import ClassToken, PatchEmbedding
from ..nn.feed_forward import Activation, FeedForward
from ..nn.linear import Linear
from ..nn.module import ModuleList
from ..nn.norm import LayerNorm
from ..nn.position import LearnedPosition
from ..random import DROPOUT, INITIALIZATION, Generator, default_seed
from .config import check_config
from .language import use_attention
from .output import Model

__all__ = ["ViT", "ViTConfig"]


@dataclass(frozen=True)
class ViTConfig(CheckedArguments):
    """The configuration of a ViT, saved with a run.

    channels: 1 of gray images, 3 of colored ones. mlp_dim None means 4 · embed_dim. norm_eps: added to the variance in
    the norms; published models have 1e-12 or 1e-6.
    """

    image_height: int
    image_width: int
    channels: int
    num_classes: int
    patch_size: int = 4  # the side of a square in pixels; it divides height and width
    embed_dim: int = 192
    num_heads: int = 3
    num_layers: int = 12
    mlp_dim: int | None = None
    dropout: float = 0.0
    bias: bool = True  # in linears and norms
    activation: Activation = "gelu"
    attn_implementation: Implementation = "auto"
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        images = ("image_height", "image_width", "channels", "num_classes", "patch_size")
        check_config(self, (*images, "embed_dim", "num_heads", "num_layers"), ("mlp_dim",))
        if self.image_height % self.patch_size or self.image_width % self.patch_size:
            raise ConfigError(
                "ViTConfig: patch_size divides the height and the width of the images, got images of "
                f"{self.image_height} × {self.image_width} pixels and a patch_size of {self.patch_size}. "
                "Choose another patch_size, or resize the images."
            )

    @property
    def num_patches(self) -> int:
        """The number of patches of an image."""
        return (self.image_height // self.patch_size) * (self.image_width // self.patch_size)


class ViT(Model):
    """An image classifier: images (B, height, width, channels) in, one row of logits an image out, (B, num_classes).

    The head reads the class token alone.

    Matrices of blocks are initialized Xavier uniform, as in the authors' code. Embedded patches have a variance of
    about 1 at first (see `PatchEmbedding`); positions and the class token are normal with std 0.5, which is of the same
    order: with a std of 0.02 a small model is slow to learn the position of a patch. The head is normal with std 0.02.

    generator: of the random numbers of dropout; part of the state of a run.
    """

    def __init__(self, config: ViTConfig, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        seed = default_seed(seed)
        self.generator = Generator(seed, DROPOUT)
        weights = Generator(seed, INITIALIZATION)
        C, large = config.embed_dim, init.normal(0.5)
        self.patch_embedding = PatchEmbedding(
            config.patch_size, config.channels, C, bias=config.bias, generator=weights
        )
        self.class_token = ClassToken(C, weight_init=large, generator=weights)
        self.position = LearnedPosition(1 + config.num_patches, C, weight_init=large, generator=weights)
        self.dropout = Dropout(config.dropout)
        self.blocks = ModuleList(self._block(weights) for _ in range(config.num_layers))
        self.norm = LayerNorm(C, eps=config.norm_eps, bias=config.bias)
        self.head = Linear(C, config.num_classes, bias=config.bias, generator=weights)
        share_generator(self, self.generator)
        self.lay_flat()  # all parameters lie in one buffer

    def _block(self, weights: Generator) -> PreNormBlock:
        config, C = self.config, self.config.embed_dim
        xavier = init.xavier_uniform()
        return PreNormBlock(
            LayerNorm(C, eps=config.norm_eps, bias=config.bias),
            MultiHeadAttention(
                C,
                config.num_heads,
                bias=config.bias,
                dropout=config.dropout,
                implementation=config.attn_implementation,
                weight_init=xavier,
                generator=weights,
            ),
            Dropout(config.dropout),
            LayerNorm(C, eps=config.norm_eps, bias=config.bias),
            FeedForward(
                C,
                config.mlp_dim or 4 * C,
                bias=config.bias,
                activation=config.activation,
                weight_init=xavier,
                generator=weights,
            ),
            Dropout(config.dropout),
        )

    def forward(self, images: Array) -> Array:
        """Return the logits (B, num_classes) of images (B, height, width, channels), floats of the model's dtype."""
        self._check(images)
        x = self.patch_embedding(images)
        x = self.class_token(x)
        x = self.position(x)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x[:, 0])  # the class token
        logits: Array = self.head(x)
        return logits

    def backward(self, dlogits: Array) -> Array:
        """Add to the gradients of all parameters. Return the gradient of the images."""
        dtoken = self.head.backward(dlogits)
        dtoken = self.norm.backward(dtoken)
        dx = array_module(dtoken).zeros((len(dtoken), *self.position.weight.shape), dtype=dtoken.dtype)
        dx[:, 0] = dtoken
        for block in reversed(self.blocks):
            dx = block.backward(dx)
        dx = self.dropout.backward(dx)
        dx = self.position.backward(dx)
        dx = self.class_token.backward(dx)
        dimages: Array = self.patch_embedding.backward(dx)
        return dimages

    def use_attention(self, implementation: Implementation) -> None:
        """Change the attention algorithm of every block; the weights stay."""
        use_attention(self, implementation)

    def _check(self, images: Array) -> None:
        """Raise for images of another size than the model's, whose patches would get the wrong positions."""
        c, shape = self.config, getattr(images, "shape", None)
        wanted = c.image_height, c.image_width, c.channels
        if shape is None or len(shape) != 4 or tuple(shape[1:]) != wanted:
            came = type(images).__name__ if shape is None else tuple(shape)
            raise ShapeError(
                f"ViT: images have shape (B, {', '.join(map(str, wanted))}), the height, width and channels the model "
                f"was built for, got {came}. Resize or convert the images, or build a model for theirs."
            )
