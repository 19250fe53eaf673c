"""In a browser: a page unpacks its data and shows the library's numbers. Left out where no Chromium is installed."""

import shutil
import subprocess
from html import unescape
from pathlib import Path
from re import DOTALL, findall, search

import numpy as np
import pytest
from explain_helpers import Data, page_of

from compyute_transformer.models.registry import MODELS

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
LINKS = ("blocks.1.attention.dv", "blocks.0.attention.scores", "blocks.1.feed_forward.down.dweight", "norm.y")

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser found: none of {', '.join(NAMES)} is installed")


def opened(page: Path, link: str, folder: Path) -> str:
    """Return the elements of a page after its code has run."""
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder}",
        "--virtual-time-budget=20000",
    ]
    command = [str(BROWSER), *options, "--dump-dom", f"{page.as_uri()}#{link}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize("name", LINKS)
def test_a_link_opens_the_number_that_the_library_computed(name: str, tmp_path: Path) -> None:
    record = MODELS["gpt"]
    html, _ = page_of("gpt", record.small_configs()["plain"])
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    array = Data(html).named(name)
    place = (*(n // 2 for n in array.shape[:-1]), 0)  # the first column: the mask hides none of its scores
    shown = opened(tmp_path / "page.html", f"{name}@{','.join(map(str, place))}", tmp_path / "browser")
    (value,) = findall(r'<p class="value">[^<]*= ([^<]*)</p>', shown)
    number = float(value.replace("−", "-"))
    np.testing.assert_allclose(number, float(array[place]), rtol=1e-6)
    assert search(r'<p id="loading"[^>]* hidden=""', shown)  # it is shown while a page is read, and if it cannot be
    (code,) = findall(r'aria-label="code of (\w+_forward)"', shown)[:1]
    assert code.removesuffix("_forward") in unescape(shown)


def test_every_view_is_there(tmp_path: Path) -> None:
    html, traced = page_of("vit", MODELS["vit"].small_configs()["plain"])
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    shown = opened(tmp_path / "page.html", "view:predictions", tmp_path / "browser")
    assert len(findall(r'role="tab"', shown)) == 7
    assert not findall(r'id="view-\w+"[^>]*></div>', shown)  # the other views are built before they are asked for
    assert search(r'id="view-predictions"[^>]*>.*The class of the image', shown, DOTALL)
    probabilities = np.exp(traced.logits[0].astype(np.float64))
    best = 100 * probabilities.max() / probabilities.sum()
    assert f"{best:.1f}" in shown
