"""Names that are not here: earlier ones give the present object, and those of other libraries say what is here.

An earlier name gives one warning as well, with what it is called now.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

__all__ = ["earlier_names"]


def earlier_names(
    module: str, names: "Mapping[str, str]", elsewhere: "Mapping[str, str] | None" = None
) -> "Callable[[str], Any]":
    """Return a module's `__getattr__` that finds its earlier names.

    names: the present place of each, such as "dispatch.use_kernels", from the package on. elsewhere: what is here in
    the place of names of PyTorch and Transformers.
    """

    def find(name: str) -> "Any":
        if name not in names:
            hint = f". Here it is {elsewhere[name]}." if elsewhere and name in elsewhere else ""
            raise AttributeError(f"module {module!r} has no attribute {name!r}{hint}")
        import warnings
        from importlib import import_module

        place, _, now = names[name].rpartition(".")
        warnings.warn(f"{module}.{name} is called {place}.{now} now.", DeprecationWarning, stacklevel=2)
        return getattr(import_module(f"{__package__}.{place}"), now)

    return find
