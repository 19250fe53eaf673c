"""How the site is built: Sphinx with MyST, warnings as errors, and nothing from another host.

Build it by `sphinx-build -W --keep-going docs docs/_build/html`. The notebooks run as it is built, which takes minutes;
`-D nb_execution_mode=off` leaves their outputs out.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT / "tools")]

from compyute_transformer import __version__  # noqa: E402

project = "Compyute Transformer"
author = "the Compyute Transformer authors"
release = version = __version__
language = "en_GB"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "_ext.api",  # the public names, with docstrings as the code has them
    "_ext.curves",  # how the models of a page learned, from committed logs
    "_ext.results",  # what was measured, drawn and in tables
    "_ext.grading",  # what a learner can have graded
    "_ext.generated",  # tables of what the code says of itself
    "_ext.mathml",  # formulas the browser draws by itself
    "_ext.mutants",  # what the mutation run found
    "_ext.checks",  # the checks of an op, run as the site is built
]
exclude_patterns = ["_build", "_ext"]

nitpicky = True  # a reference that leads nowhere is a warning, and warnings are errors
nitpick_ignore_regex = [(r"py:class", r".*")]  # but for annotations, which name what is documented elsewhere or nowhere
nitpick_ignore = [("py:obj", "typing.~P")]  # what autodoc makes of *args: P.args

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "auto"  # a page shows what its notebook computes here and draws; the tests, which run them, say off
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_render_markdown_format = "gfm"  # tables too

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_copyright = False
smartquotes = False  # `--steps` is not a dash
html_theme_options = {"navigation_with_keys": True}
pygments_style, pygments_dark_style = "friendly", "github-dark"
copybutton_exclude = ".linenos, .gp, .go"

NAVIGATION: dict[Any, str] = {}


def copy_notebooks(app: Sphinx, config: Config) -> None:
    """Bring the notebooks below docs/, where Sphinx sees them. Only what changed, so that nothing is built twice."""
    source, target = ROOT / "notebooks", HERE / "notebooks"
    target.mkdir(exist_ok=True)
    names = {path.name for path in source.glob("*.ipynb")}
    for stale in [path for path in target.glob("*.ipynb") if path.name not in names]:
        stale.unlink()
    for name in names:
        if not (target / name).exists() or (target / name).read_bytes() != (source / name).read_bytes():
            shutil.copyfile(source / name, target / name)


def share_navigation(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Make the navigation of the pages of source code once for each depth of folders.

    They stand in no table of contents, so that theirs differ in the way back to the top alone. To copy the whole tree
    for each takes a fifth of the build.
    """
    make = context.get("toctree")
    if make is None or pagename in app.env.found_docs:
        return

    def shared(**options: Any) -> str:
        key = pagename.count("/"), *sorted(options.items())
        if key not in NAVIGATION:
            NAVIGATION[key] = make(**options)
        return NAVIGATION[key]

    context["toctree"] = shared


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("config-inited", copy_notebooks)
    app.connect("html-page-context", share_navigation, priority=400)  # before the theme, which asks for the navigation
