from pathlib import Path

import pytest
from training_helpers import TEXT, tiny

from compyute_transformer.data import load_pairs
from compyute_transformer.training import Settings, resume_run, start_run
from compyute_transformer.training.reporting.next_steps import next_steps

SMALL = {"steps": 1, "embed_dim": 8, "num_heads": 2, "num_layers": 1, "batch_size": 2, "sample_every": 0}


def advice(tmp_path: Path, text: str, name: str = "a.txt", preset: str = "cpu", **changes: object) -> list[str]:
    (tmp_path / name).write_text(text)
    settings = Settings.resolve(preset, None, {**SMALL, "context_length": 16, **changes})
    lines = next_steps(start_run([tmp_path / name], settings, tmp_path / "my run")).splitlines()
    assert lines[0] == "Next:"
    return [line.strip().replace(str(tmp_path), "") for line in lines[1:]]


def test_a_run_is_used_evaluated_and_continued(tmp_path: Path) -> None:
    assert advice(tmp_path, "The" + TEXT) == [
        "compyute generate '/my run' --prompt The",
        "compyute eval '/my run'",
        "compyute train --resume '/my run' --steps 2",
    ]


def test_a_prompt_that_the_run_cannot_read_is_left_out(tmp_path: Path) -> None:
    assert advice(tmp_path, TEXT)[0] == "compyute generate '/my run'"


def test_what_has_no_validation_split_is_not_evaluated(tmp_path: Path) -> None:
    commands = advice(tmp_path, TEXT, validation_fraction=0)
    assert [command.split()[1] for command in commands] == ["generate", "train"]


def test_a_translator_is_asked_what_it_can_read(tmp_path: Path) -> None:
    lines = [f"{'ab' * (i % 4 + 1)}{'c' * (i // 2)}\tx{'y' * i}" for i in range(9)]
    commands = advice(tmp_path, "\n".join(lines), "pairs.tsv", "translation", tokenizer="characters")
    pairs = load_pairs(str(tmp_path / "pairs.tsv")).pairs
    shortest = min(len(pair.source) for pair in pairs)
    prompt = commands[0].removeprefix("compyute generate '/my run' --prompt ")
    assert prompt in {pair.source for pair in pairs}
    assert len(prompt) == shortest


def test_data_that_changed_meanwhile_fail_no_finished_run(tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"{n}\t{n + 1}\n" for n in range(20)))
    settings = Settings.resolve("translation", None, {**SMALL, "context_length": 16, "tokenizer": "characters"})
    result = start_run([file], settings, tmp_path / "run")
    file.write_text("1\t2\n")
    assert next_steps(result).splitlines()[1:] == [
        f"  compyute eval {tmp_path / 'run'}",
        f"  compyute train --resume {tmp_path / 'run'} --steps 2",
    ]


def test_a_finished_run_says_that_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    run = tmp_path / "run"
    assert start_run([tmp_path / "a.txt"], tiny(steps=2), run).taken == 2
    result = resume_run(run)
    assert result.taken == 0
    said = next_steps(result)
    assert said.startswith("Nothing is left to do: all 2 steps were taken before. No setting was changed. To continue,")
    assert said.endswith(f"compyute train --resume {run} --steps 4")
    assert resume_run(run, steps=5).taken == 3


@pytest.mark.parametrize("drawable", [True, False])
def test_a_picture_is_drawn_only_where_it_can_be(
    tmp_path: Path, drawable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compyute_transformer.training.reporting import next_steps as module

    monkeypatch.setattr(module, "find_spec", lambda name: object() if drawable else None)
    result = start_run((), Settings.resolve("digits", None, SMALL), tmp_path / "digits")
    assert ("--picture" in next_steps(result)) is drawable
    assert f"compyute eval {tmp_path / 'digits'}\n" in next_steps(result)
