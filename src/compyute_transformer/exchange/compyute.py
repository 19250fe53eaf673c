"""Compyute, whose transformers this library began as: our modules inside its models, and our models in its files.

    as_compyute     a module of this library as a `compyute.nn.Module`, whose parameters are the same memory
    save_compyute   a GPT as `cp.save` writes one, for `cp.load` and `load_state_dict`; `from_pretrained` reads it back

Compyute is on no package index, so it is no dependency: `as_compyute` imports the one that is installed, and
`save_compyute` needs none.
"""

from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from .. import _io
from ..arrays import Array, array_module, to_numpy
from ..errors import ConfigError, MissingExtraError
from ..models.gpt import GPT, GPTConfig
from ..nn.module import Module
from ..nn.parameter import Parameter
from .training_files import compyute_pieces

__all__ = ["as_compyute", "save_compyute"]


# --- our modules inside its models -----------------------------------------------------------------------------------


def as_compyute(module: Module, label: str | None = None) -> Any:
    """Return a module of this library as one of Compyute: `Sequential(as_compyute(block), Linear(...))`.

    Its forward takes one Tensor and returns one. Each parameter is a `Parameter` of Compyute over the same memory, so
    an update by an optimizer of either library is seen by both, and a tied weight is there once. Gradients are those
    of the module, which adds to them until they are reset. `training()` and `inference()` are `train()` and `eval()`;
    with `trainable` False no parameter gets a gradient. What `to_type`, `to_device` or `load_state_dict` put in the
    place of a parameter's data is taken over by the next forward.

    Raises MissingExtraError where Compyute is not installed.
    """
    try:
        compyute, nn, parameter = map(import_module, ("compyute", "compyute.nn", "compyute.nn.parameter"))
    except ImportError as error:
        raise MissingExtraError(
            f"as_compyute: the package compyute must be importable: {error}. Install it from its repository."
        ) from error
    return _class_of(nn.Module, compyute.Tensor, parameter.Parameter)(module, label)


@lru_cache(maxsize=4)
def _class_of(base: Any, tensor: Any, parameter: Any) -> Any:
    """Return the class of modules of Compyute that wrap ours."""

    class Wrapped(base):  # type: ignore[misc]
        """A module of this library; `wrapped` is it."""

        def __init__(self, module: Module, label: str | None) -> None:
            super().__init__(label or type(module).__name__)
            self._wrapped = module.train()
            for name, own in module.named_parameters():
                setattr(self, name, parameter(tensor(own.data)))  # "blocks.0.norm.weight" is a name too

        @property
        def wrapped(self) -> Module:
            """The module of this library."""
            return self._wrapped

        @base.register_forward  # type: ignore[untyped-decorator]
        def forward(self, x: Any) -> Any:
            """Return the module's output."""
            _share(self._wrapped, self._parameters)
            return tensor(self._wrapped(x.data))

        @base.register_backward  # type: ignore[untyped-decorator]
        def backward(self, dy: Any) -> Any:
            """Return the gradient of the input; of ids an empty one."""
            trained = [own for own in self._wrapped.parameters() if own.requires_grad and not self.trainable]
            for own in trained:
                own.requires_grad = False
            try:
                _take_gradients(self._wrapped, self._parameters)
                dx = self._wrapped.backward(dy.data)
            finally:
                for own in trained:
                    own.requires_grad = True
            for name, own in self._wrapped.named_parameters():
                theirs = self._parameters[name]
                if own.grad is not None and (theirs.grad is None or theirs.grad.data is not own.grad):
                    theirs.grad = tensor(own.grad)
            dx = dx[0] if isinstance(dx, tuple) else dx  # of attention, the others are those of a memory
            return tensor(array_module(dy.data).empty(0) if dx is None else dx)

        def training(self) -> None:
            """Save for backwards, and drop at random."""
            super().training()
            self._wrapped.train()

        def inference(self) -> None:
            """Save nothing, and drop nothing."""
            super().inference()
            self._wrapped.eval()

        def clean(self, force: bool = False) -> None:
            """Drop what was saved for a backward, and the gradients."""
            super().clean(force)
            self._wrapped.clear_saved()

    return Wrapped


def _share(module: Module, parameters: Mapping[str, Any]) -> None:
    """Take over data that were put in the place of ours, of another dtype or on another device too."""
    for name, own in module.named_parameters():
        given = parameters[name].data
        if given is own.data:
            continue
        if array_module(given) is not array_module(own.data) or given.dtype != own.data.dtype:
            module.to("cpu" if isinstance(given, np.ndarray) else "cuda", given.dtype)
        own.data[...] = given
    for name, own in module.named_parameters():
        parameters[name].data = own.data


def _take_gradients(module: Module, parameters: Mapping[str, Any]) -> None:
    """Drop the gradients that Compyute has reset, and take over those that it has replaced."""
    for name, own in module.named_parameters():
        grad = parameters[name].grad
        if grad is None:
            own.grad = None
        elif grad.data is not own.grad:
            own.grad = None
            _add(own, grad.data)


def _add(own: Parameter, gradient: Array) -> None:
    if own.requires_grad:
        own.accumulate(gradient)
    else:
        own.grad = gradient


# --- our models in its files -----------------------------------------------------------------------------------------


def save_compyute(model: GPT, path: str | Path, *, mask: bool = True) -> None:
    """Write a GPT as `cp.save({"model": model.get_state_dict(), "optim": None}, path)` of Compyute does.

    There `GPTTransformer(V, C, F, H, layers, T, mask).load_state_dict(cp.load(path)["model"])` reads it. mask: whether
    that model was made with a mask, such as `get_causal_mask(T)`, which is a part of its state.

    Raises:
        ConfigError: a model that Compyute's GPT cannot express. OSError.
    """
    _require_expressible(model)
    config, state = model.config, model.state_dict()
    arrays: dict[str, Array] = {"pos": np.arange(config.context_length, dtype=np.int32)[None]}
    for piece in compyute_pieces(config):
        arrays |= piece.write(to_numpy(state[piece.ours]))
    arrays["head.w"] = table = arrays["token_emb.w"]
    forbidden = np.triu(np.full((config.context_length,) * 2, -np.inf, table.dtype), 1)
    for i in range(config.num_layers):
        arrays[f"blocks.{i}.attn.mask"] = forbidden
    of_blocks = [f"blocks.{i}.{name}" for i in range(config.num_layers) for name in OF_BLOCK]
    names = ["pos", "token_emb.w", "pos_emb.w", *of_blocks, "ln.w", "ln.b", "head.w"]
    raw = _pickled({name: arrays[name] for name in names if mask or not name.endswith(".mask")})
    _io.replace_file(Path(path), lambda file: file.write_bytes(raw))


# In the order in which Compyute lists them: parameters, then buffers, then those of the modules within.
OF_BLOCK = (
    *("ln1.w", "ln1.b", "attn.w_i", "attn.b_i", "attn.w_o", "attn.b_o", "attn.mask", "ln2.w", "ln2.b"),
    *("mlp.up_proj.w", "mlp.up_proj.b", "mlp.down_proj.w", "mlp.down_proj.b"),
)


def _require_expressible(model: Any) -> None:
    """Raise ConfigError for a model that is no GPT of Compyute."""
    if not isinstance(model, GPT):
        raise ConfigError(f"save_compyute: a file of Compyute holds a GPT, got {type(model).__name__}.")
    config, defaults = model.config, GPTConfig(1)
    needed = {
        "num_kv_heads": (None, config.num_heads),
        "bias": (True,),
        "activation": ("gelu_tanh",),
        "window": (None,),
        "soft_cap": (None,),
        "tie_word_embeddings": (True,),
        "norm_eps": (defaults.norm_eps,),
    }
    for name, allowed in needed.items():
        if getattr(config, name) not in allowed:
            raise ConfigError(
                f"save_compyute: a GPT of Compyute has {name} {allowed[0]}, got {getattr(config, name)}. Save it with "
                "save_pretrained, which keeps it."
            )


# --- a pickle, written without the module that also runs them --------------------------------------------------------


def _pickled(arrays: Mapping[str, Array]) -> bytes:
    """Return the pickle of {"model": OrderedDict of the parameters, "optim": None}, of protocol 5.

    A pickle is a program for a machine with a stack. `c` names a class or function, `R` calls it with a tuple, `b`
    gives an object its state, and `u` puts what stands behind the last `(` into a dictionary.
    """
    pairs = []
    for name, array in arrays.items():
        kind = "Buffer" if name == "pos" or name.endswith(".mask") else "Parameter"
        fields = b"}(" + _text("data") + _array(array) + _text("grad") + b"N" + _text("_iterator") + b"K\x00u"
        pairs.append(_text(name) + _name("compyute.nn.parameter", kind) + b")\x81N" + fields + b"\x86b")
    model = _name("collections", "OrderedDict") + b")R(" + b"".join(pairs) + b"u"
    return b"\x80\x05}(" + _text("model") + model + _text("optim") + b"Nu."


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def _array(array: Array) -> bytes:
    """Return the call by which NumPy 2 pickles an array: of its bytes, dtype, shape and order."""
    array = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    raw = array.tobytes()
    dtype = _name("numpy", "dtype") + _text(array.dtype.str[1:]) + b"\x89\x88\x87R"  # (name, False, True)
    dtype += b"(K\x03" + _text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"(" + b"".join(b"J" + size.to_bytes(4, "little") for size in array.shape) + b"t"
    given = b"(\x96" + len(raw).to_bytes(8, "little") + raw + dtype + shape + _text("C") + b"t"
    return _name("numpy._core.numeric", "_frombuffer") + given + b"R"
