"""Other people's models: directories of Hugging Face Transformers, read and written without PyTorch.

tensors        safetensors files, whole or in shards: checked, mapped into memory, read as float32 or float64
configurations config.json as configurations of `models`; configurations_write, the other way
names          the names and layouts of their tensors and of our parameters, both ways
pretrained     the models of whole directories in and out; `AutoModel`
gguf           the one-file format of llama.cpp, read; gguf_write, written; quantized, its types of tensors
training_files  files of nanoGPT and Compyute; pickles, which reads them without running anything
tokenizer      tokenizers of ours as files of theirs
chat           chat templates, in a sandbox
generation     generation_config.json
lora           LoRA on a whole model, and the files of PEFT
hub            models by their name, fetched by huggingface_hub
embed          sentence embeddings
compyute       our modules inside models of Compyute, and its files, written
complete       a model with its tokenizer, its defaults of generation and its chat template
"""

from .chat import ChatTemplate
from .complete import Pretrained, copy_beside, is_pretrained, model_path
from .compyute import as_compyute, save_compyute
from .generation import GenerationDefaults, generation_defaults
from .gguf import read_gguf, tokenizer_of
from .gguf_write import save_gguf
from .lora import add_lora, load_adapter, merge_lora, save_adapter
from .pretrained import AutoModel, load_pretrained, save_pretrained
from .tensors import read_tensors, write_tensors

__all__ = [
    "AutoModel",
    "ChatTemplate",
    "GenerationDefaults",
    "Pretrained",
    "add_lora",
    "as_compyute",
    "copy_beside",
    "generation_defaults",
    "is_pretrained",
    "load_adapter",
    "load_pretrained",
    "merge_lora",
    "model_path",
    "read_gguf",
    "read_tensors",
    "save_adapter",
    "save_compyute",
    "save_gguf",
    "save_pretrained",
    "tokenizer_of",
    "write_tensors",
]
