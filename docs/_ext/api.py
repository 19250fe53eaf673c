"""The public API, from `__all__` and the docstrings, which the code writes in plain text with formulas.

    ```{public} compyute_transformer.nn        every public name of a package or module
    ```{names} compyute_transformer            the same as a table of links, for names documented elsewhere

Docstrings are not reStructuredText: a `*rows` in a shape is no emphasis, and the lines of a formula are to stay lines.
So each is rewritten before Sphinx reads it: prose becomes paragraphs, formulas and indented lines literal blocks, and
headings such as `Shapes:` the terms of a definition list.
"""

import inspect
import re
from importlib import import_module
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx

from compyute_transformer.dispatch import Dispatched

from .markdown import MarkdownDirective, table

SECTIONS = ("Shapes", "Saves", "Raises", "Source", "Sources", "Shapes, Raises, Source")
FORMULA = re.compile(r"""^("?[\w"]+"?: )?[^\s.:]{1,12}(\[[^\]]*\])?(\s?\([^)]*\))? (=|←) """)
DRAWN = re.compile(r"\S  +\S|[├└]")  # columns, or a tree
FIELD = re.compile(r"(?:^|(?<=[.;] ))([a-z_]\w*(?:, [a-z_]\w*)*): ")


class Public(MarkdownDirective):
    """Every public name of a module."""

    required_arguments = 1

    def markdown(self) -> str:
        """What autodoc is asked for, in the order of `__all__`."""
        module = import_module(self.arguments[0])
        blocks = [f".. automodule:: {module.__name__}\n", *(self.entry(module, name) for name in module.__all__)]
        return "```{eval-rst}\n" + "\n".join(block for block in blocks if block) + "\n```\n"

    @staticmethod
    def entry(module: ModuleType, name: str) -> str:
        """The lines for one name; none for a module, which has a page or a section of its own."""
        value = getattr(module, name)
        if inspect.ismodule(value):
            return ""
        if inspect.isclass(value):
            if issubclass(value, BaseException):
                return f".. autoexception:: {module.__name__}.{name}\n"
            return f".. autoclass:: {module.__name__}.{name}\n   :members:\n"
        if isinstance(value, Dispatched) or callable(value):
            return f".. autofunction:: {module.__name__}.{name}\n"
        return f".. autodata:: {module.__name__}.{name}\n"


class Names(MarkdownDirective):
    """Every public name of a module, with a link to where it is documented."""

    required_arguments = 1

    def markdown(self) -> str:
        """One row a name."""
        module = import_module(self.arguments[0])
        rows = []
        for name in module.__all__:
            value = getattr(module, name)
            role = "py:mod" if inspect.ismodule(value) else "py:obj"
            home = value.__name__ if inspect.ismodule(value) else f"{value.__module__}.{name}"
            package = getattr(module, "_DEFINED_IN", {}).get(name)
            if package and inspect.isfunction(value):  # documented where it is public
                home = f"{module.__name__}.{package}.{name}"
            rows.append([f"{{{role}}}`{name} <{home}>`", (inspect.getdoc(value) or "").split("\n")[0]])
        docstring = f"```{{eval-rst}}\n.. automodule:: {module.__name__}\n```\n\n"
        return docstring + table(["name", "what it is"], rows)


def escape(text: str) -> str:
    """Plain text in which reStructuredText finds nothing but names in backquotes."""
    parts = re.split(r"(`[^`]+`)", text)
    marked = [f"`{part}`" if i % 2 else re.sub(r"([\\*|_`])", r"\\\1", part) for i, part in enumerate(parts)]
    return "".join(marked)


def paragraphs(lines: list[str]) -> list[list[str]]:
    """The lines between empty lines."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [paragraph for paragraph in found if paragraph]


def rewrite(lines: list[str]) -> list[str]:
    """A docstring as reStructuredText."""
    written: list[str] = []
    for paragraph in paragraphs(lines):
        text = " ".join(line.strip() for line in paragraph)
        if paragraph[0].rstrip().removesuffix(":") in SECTIONS:
            written += sections(paragraph)
        elif paragraph[0].startswith(" ") or FORMULA.match(paragraph[0]) or any(map(DRAWN.search, paragraph)):
            written += [".. code-block:: text", "", *(f"    {line}" for line in paragraph), ""]
        elif FIELD.match(text):
            written += fields(text)
        else:
            written += [escape(text), ""]
    return written


def sections(paragraph: list[str]) -> list[str]:
    """Headings, each with what is indented below it."""
    written: list[str] = []
    for line in paragraph:
        heading = not line.startswith(" ")
        written += ["", f"**{line.strip().removesuffix(':')}**"] if heading else [f"    {escape(line.strip())}"]
    return [*written[1:], ""]


def fields(text: str) -> list[str]:
    """Names, each with what is said of it: `x: the input. weight: the scale.` is two."""
    written: list[str] = []
    for name, said in batched(FIELD.split(text)[1:], 2):
        written += [f"``{name}``", f"    {escape(said.strip())}", ""]
    return written


def batched(items: list[str], size: int) -> list[list[str]]:
    """The items, so many at a time."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def on_docstring(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Called by autodoc with each docstring, to be changed in place."""
    lines[:] = rewrite(lines)


def on_signature(
    app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Called by autodoc with each signature. An array is `Any` at run time, as it may be NumPy's or CuPy's."""
    return tuple(text and text.replace("[Any, '", "[Array, '") for text in (signature, returns))


def on_skip(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Called by autodoc with each member. The fields of a NamedTuple are in its docstring."""
    return True if type(value).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_directive("public", Public)
    app.add_directive("names", Names)
    app.connect("autodoc-process-docstring", on_docstring)
    app.connect("autodoc-process-signature", on_signature)
    app.connect("autodoc-skip-member", on_skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
