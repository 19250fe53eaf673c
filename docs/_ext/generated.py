"""Tables of what the code says of itself, so that no page can go stale.

```{op-table}       every op of the registry, with its file on each package
```{cli}            every command of `compyute`, with its arguments and options
```{flow}           the picture of the flow
```{presets}        every preset, side by side
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from compyute_transformer import ops
from compyute_transformer.cli.app import app as command
from compyute_transformer.training import Settings
from compyute_transformer.training.settings.presets import PRESETS
from compyute_transformer.verify.registry import REGISTRY

from .markdown import MarkdownDirective, table

PACKAGE = Path(ops.__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent.parent


class OpTable(MarkdownDirective):
    """Every op: what it does, and where it lives."""

    def markdown(self) -> str:
        """One row an op."""
        rows = []
        for name, op in REGISTRY.items():
            sentence = (op.forward.__doc__ or "").split("\n")[0].partition(" (formula")[0]
            word = op.forward.__module__.rpartition(".")[2]
            files = " ".join(f"`{path}`" for path in homes(name, word))
            rows.append([f"[{name}](/ops/{name}.md)", sentence, files])
        return table(["op", "what it does", "files"], rows)


def homes(name: str, word: str) -> list[str]:
    """The files of an op: the mathematics, the kernels, and the modules that call it."""
    call = rf"^from \.\.ops\.{word} import (\([^)]*|.*)\b({name}_forward|IMPLEMENTATIONS)\b"
    pair = f"^def {name}_(forward|backward)"
    packages = {"ops": pair, "cpu": pair, "gpu": pair, "nn": call}
    return [
        path.relative_to(PACKAGE).as_posix()
        for package, pattern in packages.items()
        for path in sorted((PACKAGE / package).glob("*.py"))
        if re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    ]


class Cli(MarkdownDirective):
    """Every command, from the app itself."""

    def markdown(self) -> str:
        """One section a command."""
        return "\n\n".join(self.sections(command, typer.main.get_command(command)))

    def sections(self, app: typer.Typer, group: Any, prefix: str = "") -> Iterator[str]:
        """Of every command of an app; those of a group stand below the group's own sentence."""
        functions = {info.name or info.callback.__name__: info.callback for info in app.registered_commands}
        groups = {info.name: info.typer_instance for info in app.registered_groups}
        for name, sub in group.commands.items():
            if name in groups:
                yield f"## {prefix}{name}\n\n{sub.help}"
                yield from self.sections(groups[name], sub, f"{prefix}{name} ")
            else:
                yield self.section(prefix + name, sub, get_type_hints(functions[name]))

    def section(self, name: str, sub: Any, kinds: dict[str, Any]) -> str:
        """The command's sentence, its usage, its arguments, and its options by panel."""
        arguments = [p for p in sub.params if p.param_type_name == "argument"]
        options = [p for p in sub.params if p.param_type_name == "option" and p.name in kinds]
        usage = " ".join(["compyute", name, *map(placeholder, arguments), *(["[OPTIONS]"] if options else [])])
        parts = [f"## {name}", sub.help or "", f"```text\n{usage}\n```"]
        if arguments:
            parts.append(table(["argument", "meaning"], [[f"`{a.metavar}`", a.help or ""] for a in arguments]))
        panels: dict[str, list[Any]] = {}
        for option in options:
            panels.setdefault(option.rich_help_panel or "Options", []).append(option)
        for panel, members in panels.items():
            rows = [[spelling(o), value_of(o, kinds[o.name]), o.help or "", default_of(o)] for o in members]
            head = [panel, "value", "meaning", "default"]
            keep = None if any(row[-1] for row in rows) else -1  # a column without a default is left out
            parts.append(table(head[:keep], [row[:keep] for row in rows]))
        return "\n\n".join(parts)


def placeholder(argument: Any) -> str:
    """An argument in a line of usage."""
    text = f"{argument.metavar}{'...' if argument.nargs != 1 else ''}"
    return text if argument.required else f"[{text}]"


def spelling(option: Any) -> str:
    """How an option is written."""
    return " ".join(f"`{spelled}`" for spelled in [*option.opts, *option.secondary_opts])


def value_of(option: Any, kind: Any) -> str:
    """What an option takes."""
    if option.metavar:
        return f"`{option.metavar}`"
    kinds = [inner for inner in (get_args(kind) or (kind,)) if inner is not NoneType]
    literals = [choice for inner in kinds for choice in get_args(inner)] if get_origin(kind) is not Literal else kinds
    if literals and all(isinstance(choice, str) for choice in literals):
        return " ".join(f"`{choice}`" for choice in literals)
    words = {int: "a whole number", float: "a number", str: "a text", Path: "a path", bool: ""}
    return words.get(kinds[0], "a text, several times")


def default_of(option: Any) -> str:
    """What holds without an option."""
    return "" if option.default in (None, (), "", False) else f"`{option.default}`"


class Flow(SphinxDirective):
    """The picture of the flow, as part of the page, so that it takes the page's colors."""

    def run(self) -> list[nodes.Node]:
        """Called by docutils."""
        path = HERE / "_static" / "flow.svg"
        self.env.note_dependency(str(path))
        return [nodes.raw("", f'<div class="flow">{path.read_text(encoding="utf-8")}</div>', format="html")]


class Presets(MarkdownDirective):
    """Every preset as it resolves: what it sets, in bold where it differs from the default."""

    def markdown(self) -> str:
        """One row a setting that some preset sets."""
        plain = Settings().to_dict()
        resolved = {name: Settings.resolve(name).to_dict() for name in PRESETS}
        rows = []
        for section, values in plain.items():
            for key, default in values.items():
                if any(key in preset.get(section, {}) for preset in PRESETS.values()):
                    given = [settings[section][key] for settings in resolved.values()]
                    rows.append([f"`[{section}]` `{key}`", self.show(default), *map(self.show, given)])
        return table(["setting", "default", *(f"`{name}`" for name in PRESETS)], rows)

    @staticmethod
    def show(value: object) -> str:
        """A value as a TOML file has it, without the quotes."""
        return "none" if value is None else json.dumps(value).strip('"')


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("op-table", OpTable)
    app.add_directive("cli", Cli)
    app.add_directive("flow", Flow)
    app.add_directive("presets", Presets)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
