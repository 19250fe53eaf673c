"""Plots: attention weights, confusion matrices and losses, their labels, files and errors."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compyute_transformer import GPT, GPTConfig, TransformerLM, TransformerLMConfig, cli, plotting
from compyute_transformer.errors import BackwardError, MissingExtraError, RangeError, RunError, ShapeError
from compyute_transformer.nn import CrossEntropyLoss
from compyute_transformer.plotting import plot_attention, plot_confusion, plot_loss, save_figure


def causal(T: int, blocks: int, heads: int) -> list[np.ndarray]:
    """Return causal attention weights of two rows, different in every block, row and head."""
    weights = np.tril(np.random.default_rng(0).uniform(0.1, 1, (blocks, 2, heads, T, T)))
    return list(weights / weights.sum(-1, keepdims=True))


MAPS = causal(9, 3, 4)


@pytest.mark.parametrize("ending", ["png", "svg", "PDF"])
@pytest.mark.parametrize("labels", [list("$a_日^🙂$\\{"), None])
def test_a_picture_is_written_in_the_format_its_ending_names(
    labels: list[str] | None, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"map.{ending}"
    save_figure(plot_attention(MAPS, labels, row=1), path)
    begin = path.read_bytes()[:5]
    assert begin == {"png": b"\x89PNG\r", "svg": b"<?xml", "PDF": b"%PDF-"}[ending]


def test_a_panel_a_block_and_head_with_the_weights_of_the_row_asked_for() -> None:
    maps = MAPS
    figure = plot_attention(maps, list("abcdefghi"), row=1)
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
    figure = plot_attention([np.tril(np.ones((1, 2, 40, 40)))], ["token"] * 40)
    figure.canvas.draw()
    assert "token" not in [text.get_text() for text in figure.axes[0].get_yticklabels()]


def test_labels_of_another_number_are_refused() -> None:
    with pytest.raises(ShapeError, match="one label a token, got 2 labels for 9 tokens"):
        plot_attention(MAPS, ["a", "b"])


@pytest.mark.parametrize("name", ["map.txt", "map"])
def test_an_ending_that_names_no_format_is_refused(name: str, tmp_path: Path) -> None:
    figure = plot_attention(MAPS)
    with pytest.raises(RangeError, match=r"one of .*png, .*svg.*, got"):
        save_figure(figure, tmp_path / name)


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = MAPS
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'compyute-transformer\[pictures\]'"):
        plot_attention(maps)


def test_each_map_grays_what_none_of_its_own_heads_may_see() -> None:
    seen = np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None]
    maps = [np.broadcast_to(weights, (1, 2, 4, 4)) for weights in (seen, np.full((4, 4), 0.25))]
    panels = [axes for axes in plot_attention(maps).axes if axes.images]
    assert [int(np.ma.getmaskarray(panel.images[0].get_array()).sum()) for panel in panels] == [6, 6, 0, 0]


def test_maps_from_one_text_into_another_have_labels_of_both() -> None:
    maps = [np.full((1, 2, 3, 5), 0.2)]
    figure = plot_attention(maps, list("abcde"), query_labels=list("xyz"))
    figure.canvas.draw()
    panel = figure.axes[0]
    assert [text.get_text() for text in panel.get_xticklabels()] == list("abcde")
    assert [text.get_text() for text in panel.get_yticklabels()] == list("xyz")
    with pytest.raises(ShapeError, match="one label a token, got 5 labels for 3 tokens"):
        plot_attention(maps, list("abcde"))


@pytest.mark.parametrize("shapes", [[], [(1, 2, 3, 3), (1, 2, 3, 5)]])
def test_maps_of_several_shapes_are_refused(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ShapeError, match=r"one shape \(B, H, T, S\), got (none|\(1, 2, 3, 3\), \(1, 2, 3, 5\))\."):
        plot_attention([np.zeros(shape) for shape in shapes])


def test_the_axes_of_attention_are_query_and_key() -> None:
    figure = plot_attention(MAPS)
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("key", "query")


def test_a_figure_displays_itself_in_a_notebook() -> None:
    figure: Any = plot_attention([np.full((1, 1, 2, 2), 0.5)])
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("number", [2, 40])
def test_a_confusion_matrix_has_a_row_for_each_true_class(number: int) -> None:
    counts = np.diag(np.arange(number)) + np.eye(number, k=1, dtype=int) * 3
    figure = plot_confusion(counts, [f"class {n}" for n in range(number)])
    panel = figure.axes[0]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("predicted", "true")
    np.testing.assert_allclose(panel.images[0].get_array().sum(1)[1:], 1.0)
    written = {text.get_position(): text.get_text() for text in panel.texts}
    assert written == ({(1, 0): "3", (1, 1): "1"} if number == 2 else {})
    with pytest.raises(ShapeError, match=r"3 classes have counts \(3, 3\), got"):
        plot_confusion(counts, ["a", "b", "c"])


def test_classes_in_a_script_that_the_font_lacks_are_code_points() -> None:
    figure = plot_confusion(np.eye(2, dtype=int), ["猫", "dog"])
    figure.canvas.draw()  # a missing glyph would be a warning
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["U+732B", "dog"]


def test_the_losses_of_a_run_are_drawn_by_step(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"event": "evaluation", "step": 0, "validation_loss": 4.0},
        {"event": "step", "step": 1, "loss": 3.5},
        {"event": "step", "step": 2, "loss": 3.0},
        {"event": "checkpoint", "step": 2},
        {"event": "evaluation", "step": 2, "validation_loss": 2.5},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records) + '{"event": "log')
    for run in (tmp_path, str(tmp_path), records):
        panel = plot_loss(run).axes[0]
        drawn = {line.get_label(): line.get_xydata().tolist() for line in panel.lines}
        assert drawn == {"training": [[1, 3.5], [2, 3.0]], "validation": [[0, 4.0], [2, 2.5]]}
        assert (panel.get_xlabel(), panel.get_ylabel()) == ("step", "loss")
    with pytest.raises(RunError, match="holds losses by step, got none"):
        plot_loss([])
    with pytest.raises(RunError, match=r"holds a log\.jsonl, got"):
        plot_loss(tmp_path / "none")


def written_run(folder: Path, *losses: float) -> Path:
    folder.mkdir()
    lines = [json.dumps({"event": "evaluation", "step": 10 * n, "validation_loss": x}) for n, x in enumerate(losses)]
    lines += [json.dumps({"event": "step", "step": 10 * n, "loss": x / 2}) for n, x in enumerate(losses)]
    (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_several_runs_are_drawn_in_one_picture_each_in_a_color(tmp_path: Path) -> None:
    runs = [written_run(tmp_path / name, first, 2.0) for name, first in (("narrow", 4.0), ("wide_$x$", 3.0))]
    panel = plotting.loss(*runs).axes[0]
    drawn = [line.get_xydata().tolist() for line in panel.lines]
    assert drawn == [[[0, 2], [10, 1]], [[0, 4], [10, 2]], [[0, 1.5], [10, 1]], [[0, 3], [10, 2]]]
    colors = [line.get_color() for line in panel.lines]
    assert colors[0] == colors[1] != colors[2] == colors[3]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["narrow", "wide_$x$"]


def test_runs_of_one_name_are_told_by_their_paths(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    runs = [written_run(tmp_path / name / "nano", 4.0, 2.0) for name in ("a", "b")]
    labels = [text.get_text() for text in plotting.loss(*runs).axes[0].get_legend().get_texts()]
    assert labels == [str(run) for run in runs]


def test_a_run_without_losses_among_several_is_named(tmp_path: Path) -> None:
    good, empty = written_run(tmp_path / "good", 4.0), written_run(tmp_path / "empty")
    with pytest.raises(RunError, match="losses by step, got none of empty"):
        plotting.loss(good, empty)
    with pytest.raises(RunError, match="at least one run, got none"):
        plotting.loss()
    (empty / "log.jsonl").write_text("{broken\n{}\n")
    with pytest.raises(RunError, match=r"each line of .*log\.jsonl is a JSON object, got another in line 1"):
        plotting.loss(empty)


def trained_for_a_step(**options: Any) -> GPT:
    model = GPT(GPTConfig(vocab_size=11, context_length=7, embed_dim=12, num_heads=3, num_layers=2, **options), seed=0)
    ids, criterion = np.arange(7)[None], CrossEntropyLoss()
    criterion(model(ids), ids)
    model.backward(criterion.backward())
    return model


def test_the_norms_of_gradients_are_drawn_by_depth() -> None:
    model = trained_for_a_step()
    panel = plotting.gradients(model).axes[0]
    drawn = {line.get_label(): line for line in panel.lines if not line.get_label().startswith("_")}
    line = drawn["blocks: attention.in_weight"]
    norms = [np.linalg.norm(block.attention.in_weight.grad) for block in model.blocks]
    np.testing.assert_allclose(line.get_ydata(), norms, rtol=1e-6)
    names = [text.get_text() for text in panel.get_xticklabels()]
    assert names == ["token_embedding", "position", "blocks.0", "blocks.1", "norm"]
    assert [names[int(x)] for x in line.get_xdata()] == ["blocks.0", "blocks.1"]
    assert panel.get_yscale() == "log"
    assert not panel.get_title()
    assert set(plotting.gradient_norms(model)) == {name for name, _ in model.named_parameters()}


def test_a_gradient_that_is_zero_or_no_number_is_named() -> None:
    model = trained_for_a_step()
    model.blocks[1].feed_forward.up.bias.grad[...] = 0
    model.norm.weight.grad[0] = np.nan
    title = plotting.gradients(model).axes[0].get_title()
    assert title == "× zero, NaN or infinite: blocks.1.feed_forward.up.bias, norm.weight"
    model.zero_grad()
    with pytest.raises(BackwardError, match=r"gradient after a backward, got none. Run model\.backward first"):
        plotting.gradients(model)


def test_the_attention_of_a_model_is_drawn_in_one_line() -> None:
    model = trained_for_a_step()
    ids = np.array([[1, 2, 3]])
    panels = [axes for axes in plotting.attention(model, ids, list("abc")).axes if axes.images]
    weights = model.eval()(ids, return_attention=True).attentions
    assert len(panels) == 6
    np.testing.assert_array_equal(panels[4].images[0].get_array().filled(0), weights[1][0, 1])
    model.train()
    plotting.attention(model, ids)
    assert not any(module._saved for module in model.modules())


def test_positions_are_drawn_with_their_likeness() -> None:
    model = trained_for_a_step()
    table, likeness = (axes.images[0].get_array() for axes in plotting.positions(model).axes[:2])
    np.testing.assert_array_equal(table, model.position.weight.data.T)
    np.testing.assert_allclose(np.diag(likeness), 1.0)
    config = TransformerLMConfig(vocab_size=11, context_length=7, embed_dim=12, num_heads=3, num_layers=1)
    table = plotting.positions(TransformerLM(config)).axes[0].images[0].get_array()
    np.testing.assert_allclose(table[1], np.cos(np.arange(7)), rtol=1e-6)
    for other in (object(), np.zeros(3), np.zeros((0, 4))):
        with pytest.raises(ShapeError, match="table"):
            plotting.positions(other)


def test_the_command_draws_runs_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(written_run(tmp_path / name, 4.0, 2.0)) for name in ("a", "b")]
    with pytest.raises(SystemExit) as left:
        cli.main(["plot", *runs, "--out", str(tmp_path / "both.png")])
    assert not left.value.code
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    assert "both.png" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        cli.main(["plot", str(tmp_path / "none")])
    assert left.value.code == 1
    assert "holds a log.jsonl, got" in capsys.readouterr().err


def test_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit) as left:
        cli.main(["plot", str(written_run(tmp_path / "a", 4.0))])
    assert left.value.code == 1
    assert "pip install 'compyute-transformer[pictures]'" in " ".join(capsys.readouterr().err.split())
