"""`compyute generate`: a trained model writes on, or answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import CorpusError
from . import terminal
from .options import Checkpoint, Json, OnDevice, RunFolder

__all__ = ["generate"]

# Options that one kind of run has and the other refuses.
OF_LANGUAGE = ("stride",)
OF_TRANSLATION = ("beam", "length_penalty")
# A translation is searched for, unless one of these is given: then it is written token by token.
DRAWING = ("temperature", "top_k", "top_p", "min_p", "seed")  # each token is drawn
WRITING = (*DRAWING, "repetition_penalty", "stop")  # with the last two alone, each is the most probable one


def generate(
    context: typer.Context,
    run: RunFolder,
    prompt: Annotated[
        str, typer.Option(help="Text to go on from, or to translate; FILE:path reads it from a file.")
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(help="Write at most this many tokens.")] = 200,
    temperature: Annotated[
        float,
        typer.Option(
            help="How freely tokens are chosen: 0 always takes the most probable one, 1 draws by the model's "
            "probabilities. Translation: with this or another option of drawing, the answer is drawn, not searched for."
        ),
    ] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Choose among the k most probable tokens only.")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Choose among the most probable tokens only, as many as have the probability p together."),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(help="Choose among tokens only whose probability is at least this fraction of the highest."),
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1, tokens that have occurred become less probable; 1: no penalty.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the random choices; the same seed gives the same text.")] = 0,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="Stop before this text would appear, taken as it stands; may be given several times."),
    ] = None,
    stride: Annotated[
        int,
        typer.Option(
            help="When the text outgrows the context, forget this many of its oldest tokens at a time; more is faster."
        ),
    ] = 1,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Keep keys and values of the tokens that were read; without, the text is the same but takes longer.",
        ),
    ] = True,
    beam: Annotated[
        int, typer.Option(help="Translation: beam search with this many candidate answers; 1: greedy search.")
    ] = 1,
    length_penalty: Annotated[
        float,
        typer.Option(help="Translation, with --beam: the higher, the more are long answers favored; 0: not at all."),
    ] = 0.6,
    attention: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw the attention weights among the tokens of the prompt as a picture, a panel for each head; of a "
            "translation three, FILE-encoder.png, FILE-decoder.png and FILE-cross.png.",
        ),
    ] = None,
    checkpoint: Checkpoint = "best",
    device: OnDevice = "cpu",
    json: Json = False,
) -> None:
    """Let a trained model write a text, token by token; or translate one."""
    from ..data import load_corpus
    from ..generation import Sampling, stream, stream_translation
    from ..training import load_run

    if prompt.startswith("FILE:"):
        file = prompt.removeprefix("FILE:")
        if not Path(file).is_file():
            raise CorpusError(f"generate: --prompt FILE:path reads a file of text, and there is no file {file!r}.")
        prompt = load_corpus(Path(file)).text
    loaded = load_run(run, checkpoint, device)
    if loaded.settings.data.kind == "images":
        raise typer.BadParameter(f"{run} learned images, and writes no text. Judge it: compyute eval {run}")
    translates = loaded.settings.data.kind == "translation"
    given = {name for name in context.params if _is_given(context, name)}
    for option in sorted(given & {*(OF_LANGUAGE if translates else OF_TRANSLATION)}):
        raise typer.BadParameter(
            f"{_flag(option)} does not belong to a run that learned {loaded.settings.data.kind}: leave it out."
        )
    writing = given & {*WRITING}
    if translates:
        prompt = prompt.strip()
        if not prompt:
            raise typer.BadParameter("a translation needs something to translate: give --prompt TEXT.")
        for option in sorted(given & {*OF_TRANSLATION}):
            if writing:
                raise typer.BadParameter(
                    f"{_flag(option)} is of a search, and {_flag(min(writing))} of writing token by token: leave one "
                    "of them out."
                )
        if "length_penalty" in given and beam == 1:
            raise typer.BadParameter("--length-penalty chooses among the answers of a beam search: give --beam 4, say.")
        if not writing:
            translated(loaded, run, prompt, beam, length_penalty, max_new_tokens, cache, attention, json)
            return
        if not given & {*DRAWING}:
            temperature = 0.0
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed, stop or ())
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "sampling": sampling, "cached": cache}
    if translates:
        pieces = stream_translation(loaded.model, loaded.tokenizer, prompt, **options)
    else:
        pieces = stream(loaded.model, loaded.tokenizer, prompt, stride=stride, **options)
    pictures = save_attention_of(loaded, prompt, (), attention) if attention is not None and not translates else []
    if json:
        text = "".join(pieces)
    else:
        terminal.show("" if translates else prompt)
        try:
            for piece in pieces:
                terminal.show(piece)
        finally:  # after Ctrl-C too
            terminal.show("\n")
    if attention is not None and translates:
        pictures = save_attention_of(loaded, prompt, pieces.ids, attention)
    if json:
        facts = {"run": run, "step": loaded.step, "seed": seed, "prompt": prompt, "text": text}
        facts |= {"stopped": pieces.stopped, "tokens": len(pieces.ids), "tokens_per_second": pieces.tokens_per_second}
        facts |= {"ended": pieces.ended} if translates else {}
        terminal.print_json(facts | {"log_probabilities": pieces.log_probabilities})
        return
    rate = f", {pieces.tokens_per_second:,.0f} tokens/s" if pieces.tokens_per_second else ""
    seeded = f", seed {seed}" if sampling.temperature or not translates else ""
    terminal.note(f"{len(pieces.ids)} tokens{rate}, step {loaded.step}{seeded}")
    if pictures:
        terminal.note(f"attention: {', '.join(map(str, pictures))}")


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, its default's value included."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")


def save_attention_of(loaded: Any, prompt: str, ids: Sequence[int], path: Path) -> list[Path]:
    """Draw who looked at whom: among the tokens of a prompt, or from an answer to its source. Returns the pictures."""
    from ..generation.pictures import save_prompt_attention, save_translation_attention

    if loaded.settings.data.kind == "translation":
        return save_translation_attention(loaded.model, loaded.tokenizer, prompt, tuple(ids), path)
    save_prompt_attention(loaded.model, loaded.tokenizer, prompt, path)
    return [path]


def translated(
    loaded: Any,
    run: str,
    prompt: str,
    beam: int,
    length_penalty: float,
    max_new_tokens: int,
    cache: bool,
    attention: Path | None,
    json: bool,
) -> None:
    """Print what a run answers to a prompt, and draw where it looked."""
    from time import perf_counter

    from ..generation.translation import translate

    began = perf_counter()
    answer = translate(
        loaded.model,
        loaded.tokenizer,
        [prompt],
        beam_size=beam,
        length_penalty=length_penalty,
        max_new_tokens=max_new_tokens,
        cached=cache,
    )[0]
    seconds, tokens = perf_counter() - began, len(answer.log_probabilities)  # END too: it was written as well
    pictures = [] if attention is None else save_attention_of(loaded, prompt, answer.ids, attention)
    if json:
        facts = {"run": run, "step": loaded.step, "prompt": prompt, "text": answer.text, "ended": answer.ended}
        facts |= {"log_probability": answer.log_probability, "log_probabilities": answer.log_probabilities}
        terminal.print_json(facts | {"tokens": tokens, "tokens_per_second": tokens / seconds})
        return
    terminal.show(f"{answer.text}\n")
    # of so few tokens most of the time is that of loading the kernels: a rate would say little
    terminal.note(f"{tokens} tokens in {seconds:.2g} s, step {loaded.step}")
    if pictures:
        terminal.note(f"attention: {', '.join(map(str, pictures))}")
