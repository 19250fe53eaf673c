"""A page shows the library's numbers, is one small file that loads nothing, and takes no text for markup."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explain_helpers import CONFIGURATIONS, Data, page_of, small

from compyute_transformer import explain
from compyute_transformer.explain.nodes import nodes_of
from compyute_transformer.explain.page import MOST_BYTES
from compyute_transformer.explain.planes import CUT, Planes, Product, decode, letters_of
from compyute_transformer.models.gpt import GPT, GPTConfig
from compyute_transformer.models.llama import Llama, LlamaConfig
from compyute_transformer.models.registry import MODELS

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<img src=x onerror=alert(1)>",
    "\x1b[2J\x07",
    "\u202egnp.exe\u202c",
    "👩‍👩‍👧",
    "@@DATA@@ @@SCRIPT@@",
    "\ud800",
    "x" * 10_000,
    "\u2028'\"`&amp;",
)


class HostileTokenizer:
    """Stands in for a tokenizer whose tokens are markup, escapes and worse."""

    vocab_size = len(HOSTILE)

    def decode(self, ids: Any) -> str:
        return "".join(HOSTILE[i] for i in ids)


def tiny(vocab_size: int = 9) -> GPT:
    return GPT(GPTConfig(vocab_size=vocab_size, context_length=9, embed_dim=8, num_heads=2, num_layers=2), 0)


@pytest.mark.parametrize(("record", "config"), CONFIGURATIONS)
def test_every_array_of_a_page_is_the_librarys(record: Any, config: Any) -> None:
    html, traced = page_of(record.name, config)
    assert len(html.encode()) < MOST_BYTES
    data = Data(html)
    nodes = nodes_of(traced)
    assert len(data.about["nodes"]) == len(nodes)
    shown = 0
    for node, described in zip(nodes, data.about["nodes"], strict=True):
        for value, told in zip(node.values, described["values"], strict=True):
            for array, number in ((value.array, told["tensor"]), (value.gradient, told["gradient"])):
                assert (array is None) == (number is None)
                if array is not None:
                    np.testing.assert_array_equal(data.array(number), array, err_msg=f"{node.id} {value.name}")
                    assert len(told["axes"]) == array.ndim, (node.id, value.name, told["axes"])
                    shown += 1
    assert shown > 50
    for name, gradient in traced.gradients.items():  # each gradient of a parameter stands in the page under its name
        path, _, last = name.rpartition(".")
        found = [data.named(n) for n in (f"{path}.d{last}", f"{path}.d{last}_of_all_uses") if n in data.about["names"]]
        assert any(array.shape == gradient.shape and (array == gradient).all() for array in found), name
    assert data.about["loss"] == traced.loss


@pytest.mark.parametrize(("record", "config"), CONFIGURATIONS)
def test_the_sums_of_a_page_give_the_arrays_they_claim_to_make(record: Any, config: Any) -> None:
    data, checked = Data(page_of(record.name, config)[0]), set()
    for node in data.about["nodes"]:
        for entry in node.get("sums", ()):
            result, left = data.array(entry["result"]), data.array(entry["left"])
            right = None if entry["right"] is None else data.array(entry["right"])
            made = evaluate(entry["axes"], result.shape, left, right) * entry["scale"]
            if entry["bias"] is not None:
                made = made + data.array(entry["bias"])
            seen = np.isfinite(result)  # scores that a mask hides are −∞
            if entry["names"][0] == "dweights":
                seen &= data.array(next(v["tensor"] for v in node["values"] if v["name"] == "weights")) != 0
            np.testing.assert_allclose(made[seen], result[seen], rtol=1e-4, atol=1e-5, err_msg=str(entry["names"]))
            checked.add((node["op"], entry["names"][0]))
    wanted = {("linear", name) for name in ("y", "dx", "dweight")}
    wanted |= {("attention", name) for name in ("scores", "y", "dq", "dk", "dv", "dweights")}
    assert wanted <= checked


@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        ({"soft_cap": 0.5}, {"scores", "dq", "dk"}),
        ({"positions": "alibi"}, {"scores"}),
        ({}, set()),
    ],
)
def test_what_is_no_sum_of_products_is_not_shown_as_one(options: dict[str, Any], left_out: set[str]) -> None:
    """A cap and slopes change the scores, and the cap their gradients too."""
    model = Llama(LlamaConfig(9, context_length=9, embed_dim=8, num_heads=2, num_layers=1, **options))
    data = Data(explain.page(model, np.array([[1, 4, 2]]), targets=np.array([[4, 2, 7]])))
    (shown,) = (node["sums"] for node in data.about["nodes"] if node.get("op") == "attention")
    assert {entry["names"][0] for entry in shown} == {"scores", "y", "dv", "dweights", "dq", "dk"} - left_out


def evaluate(axes: str, shape: tuple[int, ...], left: np.ndarray, right: np.ndarray | None) -> np.ndarray:
    factors = [left] if right is None else [left, right]
    heads = "h" in axes and "b" in axes
    H = max(factor.shape[1] for factor in factors) if heads else 0
    if heads:  # heads that share keys read the same ones
        factors = [factor.repeat(H // factor.shape[1], axis=1) for factor in factors]
    made = np.einsum(letters_of(axes, *(factor.ndim for factor in factors)), *factors)
    if made.shape != shape:  # and their gradients are summed over the heads
        made = made.reshape(shape[0], shape[1], -1, *shape[2:]).sum(2)
    return np.asarray(made)


def test_masked_cells_are_exact_zeros_and_their_scores_minus_infinity() -> None:
    model = tiny()
    data = Data(explain.page(model, np.array([[1, 4, 2, 0, 7]])))
    hidden = np.triu(np.ones((5, 5), bool), 1)
    for layer in range(2):
        path = f"blocks.{layer}.attention"
        assert (data.named(f"{path}.weights")[..., hidden] == 0).all()
        assert (data.named(f"{path}.scores")[..., hidden] == -np.inf).all()
        assert (data.named(f"{path}.dscores")[..., hidden] == 0).all()
        assert (data.named(f"{path}.weights")[..., ~hidden] > 0).all()


def test_short_and_full_names_lead_to_the_same_array() -> None:
    data = Data(explain.page(tiny(), np.array([[1, 4, 2]])))
    np.testing.assert_array_equal(data.named("blocks.1.attention.dv"), data.named("blocks.1.attention.attention.dv"))
    names = data.about["names"]
    assert {"blocks.0.feed_forward.up.dweight", "blocks.1.attention.din_weight", "cross_entropy.logits"} <= names.keys()
    assert data.named("blocks.0.attention.dv").shape == (1, 2, 3, 4)


@pytest.mark.parametrize("limit", [60_000, 25_000, 9_000, 1_500])
def test_arrays_lose_no_more_than_their_precision_says(limit: int) -> None:
    rng = np.random.default_rng(0)
    dy, x = rng.normal(size=(2, 5, 40)).astype(np.float32), rng.normal(size=(2, 5, 60)).astype(np.float32)
    arrays = [dy * 1e-9, x, np.einsum("bto,bti->oi", dy * 1e-9, x).astype(np.float32), rng.normal(size=(90, 30)) * 1e20]
    arrays += [np.array([[1.0, -np.inf, np.nan]] * 40, np.float32), rng.integers(0, 9, (7, 3)), rng.normal(size=12) > 0]
    planes = Planes()
    for array in arrays:
        planes.add(array)
    assert planes.add(arrays[2], Product(0, 1, "* o, * i -> o i")) == 2
    planes.fit(limit)
    described, block = planes.write()
    about = {"tensors": described}
    for number, (array, entry) in enumerate(zip(arrays, described, strict=True)):
        got = decode(about, block, number)
        kept = array[tuple(slice(n) for n in got.shape)]
        if got.shape != array.shape:
            assert entry["cut"] == [min(n, CUT) for n in array.shape]
        finite = np.isfinite(kept)
        np.testing.assert_array_equal(got[~finite], kept[~finite])
        difference, size = np.abs(got[finite] - kept[finite]), np.abs(kept[finite].astype(np.float64))
        code = entry["code"]
        if code in ("f8", "i4", "u1") or (code == "f4" and array.dtype == np.float32):
            assert not difference.any()
        elif code == "f4":
            assert (difference <= size * 2**-24).all()
        elif code == "f2":
            assert (difference <= size * 2**-11 + size.max() * 2**-38).all()
        elif code == "i1":
            assert (difference <= np.abs(array).max() / 254 * 1.001).all()
        else:
            assert code == "product"
            assert (difference <= size.max() * 1e-2).all()
    codes = [entry["code"] for entry in described]
    wanted = {60_000: ["f4", "f4", "f4", "f8"], 25_000: ["f4", "f4", "product", "f4"]}
    assert codes[:4] == wanted.get(limit, codes[:4])
    assert sum(len(entry.get("cut", ())) for entry in described) == 0 or limit == 1_500


def test_a_page_of_a_model_that_is_too_large_is_cut_and_stays_below_the_limit() -> None:
    config = GPTConfig(vocab_size=3000, context_length=32, embed_dim=256, num_heads=4, num_layers=4)
    model = GPT(config, 0)
    html = explain.page(model, np.random.default_rng(0).integers(0, 3000, (1, 32)))
    assert len(html.encode()) < MOST_BYTES
    data = Data(html)
    cut = [entry for entry in data.about["tensors"] if "cut" in entry]
    assert cut
    assert all(entry["shape"] != entry["cut"] for entry in cut)
    assert data.about["parameter_checks"] == {}  # so large a model is not run a hundred times in float64


def test_hostile_text_is_text() -> None:
    model = tiny(len(HOSTILE))
    html = explain.page(
        model, np.arange(len(HOSTILE))[None], tokenizer=HostileTokenizer(), title="</title><script>alert(2)</script>"
    )
    assert html.count("<script") == 2  # the data and the code
    assert "alert(" not in html.replace("&lt;script&gt;alert(2)", "")
    assert "\x1b" not in html
    data = Data(html)
    (words,) = data.about["axes"].values()
    assert words[0] == HOSTILE[0]
    assert words[6] == "?"
    assert words[7].endswith("(10,000 characters)")
    assert len(words[7]) < 300


def test_a_page_loads_nothing_and_runs_its_own_code_only() -> None:
    html = explain.page(tiny(), np.array([[1, 4, 2]]))
    outside = set(re.findall(r"https?://[^\s\"'<>]+", html))
    assert outside <= {"http://www.w3.org/2000/svg"}  # the name of a kind of element
    assert not re.search(r"<(link|iframe|img|object|embed)\b|@import|url\(|\bfetch\(|XMLHttpRequest|WebSocket", html)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', html)
    assert "default-src 'none'" in policy
    style = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)[0]
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[0]
    for text in (style, script):
        assert "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    assert "@@" not in html


def test_the_code_of_a_page_is_the_code_of_the_library() -> None:
    data = Data(explain.page(tiny(), np.array([[1, 4, 2]])))
    package = Path(explain.__file__).parent.parent.parent
    for source in data.about["sources"]:
        file = (package / source["file"]).read_text(encoding="utf-8").splitlines()
        for number, line in source["lines"]:
            assert file[number - 1].strip() == line.strip(), (source["file"], number)
    node = next(n for n in data.about["nodes"] if n["id"] == "blocks.0.attention.attention")
    forward, backward = (data.about["sources"][node["code"][phase]] for phase in ("forward", "backward"))
    assert (forward["name"], backward["name"]) == ("attention_forward", "attention_backward")
    assert "P = softmax" in node["formula"]
    assert not any('"""' in line for _, line in forward["lines"])
    assert "masked_scores" in {data.about["sources"][helper]["name"] for helper in forward["helpers"]}


def test_a_page_is_written_and_the_model_stays_as_it_was(tmp_path: Path) -> None:
    model = tiny()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    html = explain.page(model.eval(), np.array([[1, 4, 2]]), out=tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == html
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_kernels_are_shown_as_what_ran() -> None:
    record = MODELS["gpt"]
    model, inputs, targets = small(record, record.small_configs()["plain"])
    data = Data(explain.page(model, *inputs, targets=targets, kernels="auto"))
    assert "kernel" in {node.get("ran") for node in data.about["nodes"]}
    reference = Data(explain.page(model, *inputs, targets=targets))
    np.testing.assert_allclose(data.named("blocks.1.y"), reference.named("blocks.1.y"), rtol=1e-4, atol=1e-5)
    for mine, other in zip(
        data.about["frames"][0]["attention"], reference.about["frames"][0]["attention"], strict=True
    ):
        np.testing.assert_allclose(data.array(mine["tensor"]), reference.array(other["tensor"]), rtol=1e-4, atol=1e-6)
