"""Other people's models: directories of Hugging Face Transformers, read and written without PyTorch.

tensors        safetensors files, whole or in shards: checked, mapped into memory, read as float32 or float64
configurations config.json and the configurations of `models`, both ways
names          the names and layouts of their tensors and of our parameters, both ways
pretrained     whole directories in and out; `AutoModel`
"""

from .gguf import read_gguf, tokenizer_of
from .pretrained import AutoModel, load_pretrained, save_pretrained
from .tensors import read_tensors, write_tensors

__all__ = [
    "AutoModel",
    "load_pretrained",
    "read_gguf",
    "read_tensors",
    "save_pretrained",
    "tokenizer_of",
    "write_tensors",
]
