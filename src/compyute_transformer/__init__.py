"""Transformers whose every forward and backward pass is written by hand: readable, verified, fast.

The flow, package by package:

    text        corpus = load_corpus()                                   data/
    tokens      ids = tokenizer.encode(corpus.text)                      data/
    embedding   x = embedding(ids, weight)                               ops/, nn/
    blocks      x = x + attention(norm(x)); x = x + feed_forward(norm(x))
    logits      logits = model(ids)                                      models/
    loss        loss = criterion(logits, targets)                        nn/loss.py
    gradients   model.backward(criterion.backward())                     each module's backward
    weights     optimizer.step()                                         optim/; training/ repeats it
    text        generate(model, tokenizer, prompt)                       generation/

The names below are loaded on first use, so that importing the package takes milliseconds and loads no array library.
"""

from ._earlier_names import earlier_names
from ._version import __version__ as __version__

TYPE_CHECKING = False  # importing `typing` would take nine tenths of the time that this package takes to load
if TYPE_CHECKING:
    from typing import Any

    from . import data, errors, exchange, explain, generation, models, nn, ops, optim, parallel, training, verify
    from .dispatch import use_kernels
    from .exchange import AutoModel
    from .generation import generate
    from .models import (
        GPT,
        Bert,
        BertConfig,
        GPTConfig,
        Llama,
        LlamaConfig,
        Transformer,
        TransformerConfig,
        TransformerLM,
        TransformerLMConfig,
        ViT,
        ViTConfig,
    )
    from .nn import Module, MultiHeadAttention
    from .ops import Mask
    from .optim import SGD, AdamW
    from .random import seed
    from .training import load_run

__all__ = [
    "GPT",
    "SGD",
    "AdamW",
    "AutoModel",
    "Bert",
    "BertConfig",
    "GPTConfig",
    "Llama",
    "LlamaConfig",
    "Mask",
    "Module",
    "MultiHeadAttention",
    "Transformer",
    "TransformerConfig",
    "TransformerLM",
    "TransformerLMConfig",
    "ViT",
    "ViTConfig",
    "data",
    "errors",
    "exchange",
    "explain",
    "generate",
    "generation",
    "load_run",
    "models",
    "nn",
    "ops",
    "optim",
    "parallel",
    "seed",
    "training",
    "use_kernels",
    "verify",
]

# The module that defines each name; every other name of __all__ is a package or module itself.
_DEFINED_IN = {
    "GPT": "models",
    "SGD": "optim",
    "AdamW": "optim",
    "AutoModel": "exchange",
    "Bert": "models",
    "BertConfig": "models",
    "GPTConfig": "models",
    "Llama": "models",
    "LlamaConfig": "models",
    "Mask": "ops",
    "Module": "nn",
    "MultiHeadAttention": "nn",
    "Transformer": "models",
    "TransformerConfig": "models",
    "TransformerLM": "models",
    "TransformerLMConfig": "models",
    "ViT": "models",
    "ViTConfig": "models",
    "generate": "generation",
    "load_run": "training",
    "seed": "random",
    "use_kernels": "dispatch",
}


_OF_A_MODEL = ("ForCausalLM", "ForMaskedLM", "ForImageClassification", "ForSequenceClassification")
_earlier = earlier_names(
    __name__,
    {
        "EncoderDecoder": "models.Transformer",
        "EncoderDecoderConfig": "models.TransformerConfig",
        "VaswaniConfig": "models.TransformerLMConfig",
        "VaswaniDecoder": "models.TransformerLM",
        "use": "dispatch.use_kernels",
    },
    elsewhere={
        **dict.fromkeys(("no_grad", "inference_mode"), "model.eval(), or with nn.evaluating()"),
        **dict.fromkeys(("tensor", "from_numpy", "as_tensor"), "numpy.asarray: arrays are NumPy's"),
        **dict.fromkeys((f"AutoModel{kind}" for kind in _OF_A_MODEL), "AutoModel, whose heads are those of the files"),
        "manual_seed": "seed",
        "compile": "nothing: kernels run by themselves",
        "save": "model.save(path)",
        "load": "model.load(path), or load_run(folder)",
        "AutoConfig": "the config of a model: AutoModel.from_pretrained(DIR).config",
        "AutoTokenizer": "exchange.Pretrained(DIR).tokenizer",
        "pipeline": "generate; for a conversation compyute chat, for vectors compyute embed",
    },
)


def __getattr__(name: str) -> "Any":
    """Load a public name on first use (PEP 562)."""
    from importlib import import_module

    if name == "backend":
        return import_module(f"{__name__}.backend")
    if name not in __all__:
        return _earlier(name)
    if name not in _DEFINED_IN:
        return import_module(f"{__name__}.{name}")  # the import binds the name here
    value = getattr(import_module(f"{__name__}.{_DEFINED_IN[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
