"""Attention maps: the weights that the model used, from any implementation, and a picture that can be read."""

import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from compyute_transformer.data import BytePairTokenizer, CharacterTokenizer
from compyute_transformer.errors import MissingExtraError, RangeError, ShapeError
from compyute_transformer.generation import attention_maps, draw_attention, named_attention_maps
from compyute_transformer.generation.attention import save_picture, token_labels
from compyute_transformer.models import Transformer, TransformerConfig, TransformerLM, TransformerLMConfig
from compyute_transformer.models.gpt import GPT, GPTConfig
from compyute_transformer.nn.attention import Implementation

IDS = np.random.default_rng(0).integers(0, 11, (2, 9))


def gpt(**options: Any) -> GPT:
    model = GPT(GPTConfig(11, 40, 24, 4, 3, dropout=0.5, **options), seed=1).to(dtype=np.float64)
    model.flat.data[...] = np.random.default_rng(1).normal(0, 0.3, model.flat.data.shape)
    return model


@pytest.mark.parametrize("implementation", get_args(Implementation))
@pytest.mark.parametrize("options", [{}, {"window": 3, "num_kv_heads": 2}], ids=str)
def test_maps_of_any_implementation_are_the_same(options: dict[str, Any], implementation: Implementation) -> None:
    maps = attention_maps(gpt(attn_implementation=implementation, **options), IDS)
    expected = attention_maps(gpt(attn_implementation="parallel", **options), IDS)
    assert [weights.shape for weights in maps] == [(2, 4, 9, 9)] * 3
    for ours, theirs in zip(maps, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)
        np.testing.assert_allclose(ours.sum(-1), 1.0, rtol=1e-12)
        seen = np.tril(np.ones((9, 9), bool)) & ~np.tril(np.ones((9, 9), bool), -options.get("window", 9))
        np.testing.assert_array_equal(ours > 0, np.broadcast_to(seen, ours.shape))


def test_the_last_map_makes_the_last_output() -> None:
    model = gpt()
    weights = attention_maps(model, IDS)[0]
    model.eval()
    block = model.blocks[0]
    x = block.attention_norm(model.position(model.token_embedding(IDS)))
    v = (
        (x @ block.attention.in_weight.data[48:].T + block.attention.in_bias.data[48:])
        .reshape(2, 9, 4, 6)
        .swapaxes(1, 2)
    )
    merged = (weights @ v).swapaxes(1, 2).reshape(2, 9, 24)
    y = merged @ block.attention.out_weight.data.T + block.attention.out_bias.data
    np.testing.assert_allclose(y, block.attention(x, mask=model.mask), rtol=1e-10)


@pytest.mark.parametrize("implementation", get_args(Implementation))
def test_maps_of_a_post_norm_decoder_make_its_outputs(implementation: Implementation) -> None:
    config = TransformerLMConfig(11, 40, 24, 4, 2, dropout=0.5, window=4, attn_implementation=implementation)
    model = TransformerLM(config, seed=1).to(dtype=np.float64)
    first, last = attention_maps(model, IDS)
    assert first.shape == last.shape == (2, 4, 9, 9)
    model.eval()
    block, x = model.blocks[0], model.position(model.token_embedding(IDS) * np.sqrt(24))
    v = block.attention.project_memory(x).v
    y = (first @ v).swapaxes(1, 2).reshape(2, 9, 24) @ block.attention.out_weight.data.T
    np.testing.assert_allclose(y + block.attention.out_bias.data, block.attention(x, None, model.mask), rtol=1e-10)


@pytest.mark.parametrize("implementation", get_args(Implementation))
def test_maps_of_an_encoder_decoder_are_named_by_where_they_look(implementation: Implementation) -> None:
    model = Transformer(TransformerConfig(11, 9, 24, 4, 2, dropout=0.5, attn_implementation=implementation))
    lengths = np.array([9, 4])
    maps = named_attention_maps(model, IDS, IDS[:, :6], lengths)
    assert {path: weights.shape[2:] for path, weights in maps.items()} == {
        **{f"encoder.{n}.attention": (9, 9) for n in range(2)},
        **{f"decoder.{n}.attention": (6, 6) for n in range(2)},
        **{f"decoder.{n}.cross_attention": (6, 9) for n in range(2)},
    }
    for path, weights in maps.items():
        np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)
        seen = np.broadcast_to(np.arange(weights.shape[3]) < lengths[:, None, None, None], weights.shape)
        if path.startswith("decoder") and path.endswith(".attention"):
            seen = np.broadcast_to(np.tril(np.ones((6, 6), bool)), weights.shape)
        np.testing.assert_array_equal(weights > 0, seen)


def test_nothing_is_dropped_or_saved_and_the_mode_stays() -> None:
    model = gpt()
    attention_maps(model, IDS)
    assert model.training
    assert model.generator.offset == 0
    assert not any(module._saved for _, module in model.named_modules())


def test_ids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"shape \(B, T\)"):
        attention_maps(gpt(), IDS[0])
    with pytest.raises(RangeError, match="the context length, got 41 positions"):
        attention_maps(gpt(), np.zeros((1, 41), int))


def test_labels_show_whitespace_and_are_short() -> None:
    letters = CharacterTokenizer("a \n\t")
    assert token_labels(letters, letters.encode("a \n\t").tolist()) == ["a", "␣", "⏎", "⇥"]
    words = BytePairTokenizer.train("extraordinarily " * 50, 300)
    assert token_labels(words, words.encode("extraordinarily").tolist()) == ["extraordina…"]


@pytest.mark.parametrize("ending", ["png", "svg", "PDF"])
@pytest.mark.parametrize("labels", [list("$a_日^🙂$\\{"), None])
def test_a_picture_is_written_in_the_format_its_ending_names(
    labels: list[str] | None, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"map.{ending}"
    save_picture(draw_attention(attention_maps(gpt(), IDS), labels, row=1), path)
    begin = path.read_bytes()[:5]
    assert begin == {"png": b"\x89PNG\r", "svg": b"<?xml", "PDF": b"%PDF-"}[ending]


def test_a_panel_a_block_and_head_with_the_weights_of_the_row_asked_for() -> None:
    maps = attention_maps(gpt(), IDS)
    figure = draw_attention(maps, list("abcdefghi"), row=1)
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 12
    for index, panel in enumerate(panels):
        drawn = panel.images[0].get_array()
        np.testing.assert_array_equal(drawn.filled(0.0), maps[index // 4][1, index % 4])
        assert drawn.mask.sum() == 36  # what a query may not see
    figure.canvas.draw()
    assert [text.get_text() for text in panels[8].get_xticklabels()] == list("abcdefghi")
    assert [text.get_text() for text in panels[4].get_yticklabels()] == list("abcdefghi")
    assert [panel.get_title() for panel in panels[:4]] == ["head 0", "head 1", "head 2", "head 3"]
    assert [panel.get_ylabel() for panel in panels[::4]] == ["block 0", "block 1", "block 2"]


def test_many_tokens_are_numbered() -> None:
    ids = np.random.default_rng(0).integers(0, 11, (1, 40))
    figure = draw_attention(attention_maps(gpt(), ids), ["token"] * 40)
    figure.canvas.draw()
    assert "token" not in [text.get_text() for text in figure.axes[0].get_yticklabels()]


def test_labels_of_another_number_are_refused() -> None:
    with pytest.raises(ShapeError, match="one label a token, got 2 labels for 9 tokens"):
        draw_attention(attention_maps(gpt(), IDS), ["a", "b"])


@pytest.mark.parametrize("name", ["map.txt", "map"])
def test_an_ending_that_names_no_format_is_refused(name: str, tmp_path: Path) -> None:
    figure = draw_attention(attention_maps(gpt(), IDS))
    with pytest.raises(RangeError, match=r"one of .*png, .*svg.*, got"):
        save_picture(figure, tmp_path / name)


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = attention_maps(gpt(), IDS)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'compyute-transformer\[pictures\]'"):
        draw_attention(maps)


def test_each_map_grays_what_none_of_its_own_heads_may_see() -> None:
    seen = np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None]
    maps = [np.broadcast_to(weights, (1, 2, 4, 4)) for weights in (seen, np.full((4, 4), 0.25))]
    panels = [axes for axes in draw_attention(maps).axes if axes.images]
    assert [int(np.ma.getmaskarray(panel.images[0].get_array()).sum()) for panel in panels] == [6, 6, 0, 0]


def test_maps_from_one_text_into_another_have_labels_of_both() -> None:
    maps = [np.full((1, 2, 3, 5), 0.2)]
    figure = draw_attention(maps, list("abcde"), query_labels=list("xyz"))
    figure.canvas.draw()
    panel = figure.axes[0]
    assert [text.get_text() for text in panel.get_xticklabels()] == list("abcde")
    assert [text.get_text() for text in panel.get_yticklabels()] == list("xyz")
    with pytest.raises(ShapeError, match="one label a token, got 5 labels for 3 tokens"):
        draw_attention(maps, list("abcde"))


@pytest.mark.parametrize("shapes", [[], [(1, 2, 3, 3), (1, 2, 3, 5)]])
def test_maps_of_several_shapes_are_refused(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ShapeError, match=r"one shape \(B, H, T, S\), got (none|\(1, 2, 3, 3\), \(1, 2, 3, 5\))\."):
        draw_attention([np.zeros(shape) for shape in shapes])
