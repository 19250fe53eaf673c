"""Next steps: the commands to run after training; only commands that work are listed."""

from importlib.util import find_spec
from shlex import quote
from typing import Any

from ...data.text.tokenizer import Tokenizer
from ...errors import CompyuteError, VocabularyError
from ..run.checkpoint import resume_command
from ..run.config import load_config, load_run_encoder, reload_data
from .events import RunResult

__all__ = ["next_steps"]

PROMPTS = {"language": "The", "dates": "3 March 1999"}  # by task; a tokenizer may lack their characters


def next_steps(result: RunResult) -> str:
    """Return the commands that use a run, evaluate it, and continue it."""
    if result.interrupted:
        return (
            f"Interrupted at step {result.step:,}; nothing is lost. Continue with:\n  {resume_command(result.folder)}"
        )
    more = resume_command(result.folder, f"--steps {2 * result.step}")
    if result.taken == 0:
        return (
            f"Nothing is left to do: all {result.step:,} steps were taken before. No setting was changed. To continue, "
            f"give a larger total number of steps:\n  {more}"
        )
    commands = _uses(result)
    if result.validation_loss is not None:  # else there is no validation split
        commands.append(f"compyute eval {quote(str(result.folder))}")
    return "\n  ".join(["Next:", *commands, more])


def _uses(result: RunResult) -> list[str]:
    """Return commands that show what a run has learned; none if its files cannot be read any more."""
    try:
        return _shown(result)
    except CompyuteError:  # the run is finished and saved, so this is no error
        return []


def _shown(result: RunResult) -> list[str]:
    config, folder = load_config(result.folder), quote(str(result.folder))
    data = config.settings.data
    if data.kind == "images":
        drawn = result.validation_loss is not None and find_spec("matplotlib") is not None
        return [f"compyute eval {folder} --picture confusion.png"] if drawn else []
    if data.kind == "labels":
        return [f"compyute predict {folder}"]
    if data.kind == "masked":
        return []  # no text follows: it is evaluated
    tokenizer: Any = load_run_encoder(result.folder, config)
    prompt = PROMPTS.get(data.task)
    if prompt is None or not _encodes(tokenizer, prompt):
        prompt = None
        if data.kind == "translation":  # needs a source text
            pairs: Any = reload_data(result.folder, config)
            prompt = min((pair.source for pair in pairs.pairs), key=len)
    return [f"compyute generate {folder}" + ("" if prompt is None else f" --prompt {quote(prompt)}")]


def _encodes(tokenizer: Tokenizer, text: str) -> bool:
    try:
        tokenizer.encode(text)
    except VocabularyError:
        return False
    return True
