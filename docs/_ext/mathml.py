"""Formulas as MathML: LaTeX is converted as the site is built, so that a browser draws it without script or network.

The font comes along: STIX Two Math, from the package `ziamath`. A formula that cannot be converted is a warning, and so
an error of the build.
"""

import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

FONT = "STIXTwoMath-Regular.ttf"

logger = logging.getLogger(__name__)
converter = LatexToMathML(fancy_error=False)


def to_mathml(node: nodes.Element, display: bool) -> str:
    """The formula of a node of docutils'."""
    try:
        return converter.convert_with_local_state(node.astext(), displaystyle=display)
    except LatexError as error:
        logger.warning("a formula cannot be converted: %s\n%s", error, node.astext(), location=node)
        return f"<code>{escaped(node.astext())}</code>"


def escaped(text: str) -> str:
    """The text, with nothing left in it that HTML would take for markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def visit_inline(self: Any, node: nodes.Element) -> None:
    """Write an inline formula."""
    self.body.append(to_mathml(node, display=False))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.Element) -> None:
    """Write a formula that stands alone, in a box that scrolls where it is wider than the page, with its number."""
    self.body.append(self.starttag(node, "div", CLASS="formula"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})</span>')
    self.body.append(to_mathml(node, display=True) + "</div>\n")
    raise nodes.SkipNode


def copy_font(app: Sphinx, exception: Exception | None) -> None:
    """Lay the font beside the site's style sheet."""
    if exception is None and app.builder.format == "html":
        with as_file(files("ziamath") / "fonts" / FONT) as font:
            shutil.copyfile(font, Path(app.outdir) / "_static" / FONT)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.config.html_math_renderer = "mathml"
    app.connect("build-finished", copy_font)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
