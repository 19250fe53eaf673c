"""The site builds without a warning, every op has its page, and whatever a page shows to paste runs.

The site is built once, as strictly as Sphinx can: every warning is an error, and so is a reference that leads nowhere.
Its pages run the checks of the ops, so a check that fails is a warning too.
"""

import csv
import re
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import pytest
import typer

from compyute_transformer.cli.app import app
from compyute_transformer.training import Settings
from compyute_transformer.verify.registry import REGISTRY

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("ops/*.md")])
PARTS = ["Formula", "The gradient, derived", "The code", "What is saved", "Check it", "Checks"]
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The code blocks of a language, each with the line on which it stands."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^````.*?^````$", lambda page: "\n" * page[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


def each_page_with(language: str) -> pytest.MarkDecorator:
    pages = [pytest.param(page, id=page.stem) for page in PAGES if blocks(page, language)]
    return pytest.mark.parametrize("page", pages)


# --- the pages as they are written ---


def test_every_op_has_a_page_and_every_page_an_op() -> None:
    assert {page.stem for page in DOCS.glob("ops/*.md")} - {"index"} == set(REGISTRY)


@pytest.mark.parametrize("name", REGISTRY)
def test_a_page_of_an_op_has_every_part(name: str) -> None:
    text = (DOCS / "ops" / f"{name}.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == PARTS
    for function in (f"{name}_forward", f"{name}_backward"):
        assert f":pyobject: {function}\n" in text
    assert f"```{{checks}} {name}\n" in text
    check = text.partition("## Check it")[2]
    assert "assert abs(numeric - analytic) <" in check


@each_page_with("python")
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # what a page writes is cleared away
    names: dict[str, object] = {"__name__": page.stem}
    for line, code in blocks(page, "python"):
        exec(compile("\n" * line + code, page, "exec"), names)  # an error names the line of the page


@each_page_with("toml")
def test_the_toml_of_a_page_is_valid(page: Path, tmp_path: Path) -> None:
    for _, text in blocks(page, "toml"):
        (tmp_path / "settings.toml").write_text(text, encoding="utf-8")
        Settings.resolve("nano", tmp_path / "settings.toml")


@each_page_with("sh")
def test_the_commands_of_a_page_exist_and_take_what_they_are_given(page: Path) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for _, text in blocks(page, "sh"):
        for line in re.findall(r"(?:^|&& )(?:\.venv/bin/)?compyute (.*)", text, re.MULTILINE):
            name, *arguments = shlex.split(line, comments=True)
            commands[name].make_context(name, arguments)


# --- the site as it is built ---


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    flags = ["-W", "--keep-going", "-q", "-E", "-d", str(folder / "doctrees")]
    flags += ["-D", "nb_execution_mode=off"]  # test_notebooks.py runs them
    command = [sys.executable, "-m", "sphinx", *flags, str(DOCS), str(folder / "html")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder / "html"


class Loaded(HTMLParser):
    """Gathers what a page makes a browser load, beside what a reader may follow."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        address = dict(attributes).get(LOADS.get(tag, ""))
        if address is not None:
            self.addresses.append(address)


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert loaded.addresses
        assert not [address for address in loaded.addresses if re.match(r"(\w+:)?//", address)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"""(url\(|@import)\s*["']?(\w+:)?//""", style.read_text(encoding="utf-8")), style


def test_every_formula_is_drawn(site: Path) -> None:
    for page in PAGES:
        text = re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        written = len(re.findall(r"^\$\$", text, re.MULTILINE)) // 2  # outside of code, which may show a page
        html = (site / page.relative_to(DOCS)).with_suffix(".html").read_text(encoding="utf-8")
        html = re.sub(r"<pre>.*?</pre>", "", html, flags=re.DOTALL)
        assert len(re.findall(r'<div class="formula".*?<math display="block"', html, re.DOTALL)) == written
        assert "$$" not in html
    assert (site / "_static" / "STIXTwoMath-Regular.ttf").stat().st_size > 100_000


@pytest.mark.parametrize("name", REGISTRY)
def test_an_op_shows_its_checks(site: Path, name: str) -> None:
    html = (site / "ops" / f"{name}.html").read_text(encoding="utf-8")
    shown = re.findall(r"<p>(passes|<strong>FAILS)", html)
    assert len(shown) >= 3  # differences in float64, PyTorch in two dtypes
    assert set(shown) == {"passes"}


def test_the_page_of_mutants_says_what_the_table_says(site: Path) -> None:
    with (ROOT / "benchmarks" / "results" / "mutants.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    words = Counter(value for row in rows for value in row.values() if value in ("killed", "survived", "equivalent"))
    changing = words["killed"] + words["survived"]
    for page in ("mutants", "numbers"):
        text = re.sub(r"<[^>]*>", "", (site / f"{page}.html").read_text(encoding="utf-8"))
        assert f"planted {len(rows)} mutants" in text
        assert f"{changing} of them change behavior, and the checks reject {words['killed']}" in text
        assert f"{words['killed'] / changing:.2%}" in text
        assert f"The other {words['equivalent']} are equivalent" in text
    html = (site / "mutants.html").read_text(encoding="utf-8")
    for name in {row["rule"] for row in rows} | {row["file"] for row in rows}:
        assert f">{name}<" in html, name


def test_every_measurement_is_in_a_table_behind_a_fold_below_a_chart(site: Path) -> None:
    html = (site / "numbers.html").read_text(encoding="utf-8")
    measured = sorted((ROOT / "benchmarks" / "results").glob("*/*.csv"))
    assert measured
    for path in measured:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert f"<summary>All {len(rows)} numbers</summary>" in html
        assert all(f"<p>{row['value']}</p>" in html for row in rows), path.name
    assert html.count("<details>") == html.count("<summary>All ") == html.count('<figure role="img"')


def test_every_command_is_shown(site: Path) -> None:
    html = (site / "cli.html").read_text(encoding="utf-8")
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f'id="{name}"' in html
        for parameter in command.params:
            assert all(spelled in html for spelled in parameter.opts if spelled.startswith("--"))


def test_every_public_name_is_shown(site: Path) -> None:
    package = ROOT / "src" / "compyute_transformer"
    modules = [path.parent.name for path in package.glob("*/__init__.py") if path.parent.name != "cli"]  # has cli.md
    modules += ["arrays", "dispatch", "errors", "random", "threads"]
    public = {name: getattr(import_module(f"compyute_transformer.{name}"), "__all__", ()) for name in modules}
    shown = {name: names for name, names in public.items() if names}
    assert shown.keys() >= {"arrays", "data", "dispatch", "errors", "generation", "models", "nn", "ops", "optim"}
    for module, names in shown.items():
        html = (site / "api" / f"{module}.html").read_text(encoding="utf-8")
        missing = [name for name in names if f'<span class="pre">{name}</span>' not in html]
        assert not missing, module


def test_every_notebook_is_in_the_site(site: Path) -> None:
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {page.stem for page in (site / "notebooks").glob("*.html")} == notebooks
