"""Names of earlier versions: each gives the present object, and one warning says what it is called now."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

__all__ = ["earlier_names"]


def earlier_names(module: str, names: "Mapping[str, str]") -> "Callable[[str], Any]":
    """Return a module's `__getattr__` that finds its earlier names.

    names: the present place of each, such as "dispatch.use_kernels", from the package on.
    """

    def find(name: str) -> "Any":
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        import warnings
        from importlib import import_module

        place, _, now = names[name].rpartition(".")
        warnings.warn(f"{module}.{name} is called {place}.{now} now.", DeprecationWarning, stacklevel=2)
        return getattr(import_module(f"{__package__}.{place}"), now)

    return find
