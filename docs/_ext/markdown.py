"""What the extensions share: a directive that writes Markdown, and a table in it."""

from collections.abc import Iterable, Sequence

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

__all__ = ["MarkdownDirective", "cell", "table"]


class MarkdownDirective(SphinxDirective):
    """A directive whose content is Markdown that `markdown` returns, parsed where the directive stands."""

    def markdown(self) -> str:
        """The text that takes the directive's place."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Called by docutils."""
        return self.parse_text_to_nodes(self.markdown(), allow_section_headings=True)


def cell(text: object) -> str:
    """A text that keeps to its cell."""
    return " ".join(str(text).split()).replace("|", "\\|")


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines) + "\n"
