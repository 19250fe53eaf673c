"""The models, a file each: the configuration, the model, its forward, and its backward: the same lines reversed."""

from .._earlier_names import earlier_names
from .bert import Bert, BertConfig
from .gpt import GPT, GPTConfig
from .language import LanguageModel
from .llama import Llama, LlamaConfig
from .output import ModelOutput
from .transformer import Transformer, TransformerConfig
from .transformer_lm import TransformerLM, TransformerLMConfig
from .vit import ViT, ViTConfig

__all__ = [
    "GPT",
    "Bert",
    "BertConfig",
    "GPTConfig",
    "LanguageModel",
    "Llama",
    "LlamaConfig",
    "ModelOutput",
    "Transformer",
    "TransformerConfig",
    "TransformerLM",
    "TransformerLMConfig",
    "ViT",
    "ViTConfig",
]

__getattr__ = earlier_names(
    __name__,
    {
        "EncoderDecoder": "models.Transformer",
        "EncoderDecoderConfig": "models.TransformerConfig",
        "VaswaniConfig": "models.TransformerLMConfig",
        "VaswaniDecoder": "models.TransformerLM",
    },
)
