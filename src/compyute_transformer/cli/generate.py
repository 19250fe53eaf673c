"""`compyute generate`: a trained model writes on, or answers."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import terminal
from .options import Checkpoint, Json, OnDevice, RunFolder

__all__ = ["generate"]

# Options that one kind of run has and the other refuses.
OF_LANGUAGE = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop", "slide")
OF_TRANSLATION = ("beam", "length_penalty")


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
            "probabilities."
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
        list[str] | None, typer.Option(help="Stop before this text would appear; may be given several times.")
    ] = None,
    slide: Annotated[
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
        typer.Option(help="Translation, with --beam: the higher, the more are long answers favoured; 0: not at all."),
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
    from ..generation import stream
    from ..training import load_run

    if prompt.startswith("FILE:"):
        prompt = load_corpus(Path(prompt.removeprefix("FILE:"))).text
    loaded = load_run(run, checkpoint, device)
    translates = loaded.settings.data.kind == "translation"
    for option in OF_LANGUAGE if translates else OF_TRANSLATION:
        source = context.get_parameter_source(option)
        if source is not None and source.name != "DEFAULT":
            raise typer.BadParameter(
                f"--{option.replace('_', '-')} does not belong to a run that learned {loaded.settings.data.kind}: "
                "leave it out."
            )
    if translates:
        translated(loaded, run, prompt.strip(), beam, length_penalty, max_new_tokens, cache, attention, json)
        return
    if attention is not None:
        from ..generation.attention import draw_prompt

        draw_prompt(loaded.model, loaded.tokenizer, prompt, attention)
    pieces = stream(
        loaded.model,
        loaded.tokenizer,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop or (),
        slide=slide,
        cached=cache,
    )
    if json:
        facts = {"run": run, "step": loaded.step, "seed": seed, "prompt": prompt, "text": "".join(pieces)}
        facts |= {"stopped": pieces.stopped, "tokens": len(pieces.ids), "tokens_per_second": pieces.tokens_per_second}
        terminal.print_json(facts)
        return
    terminal.show(prompt)
    try:
        for piece in pieces:
            terminal.show(piece)
    finally:  # after Ctrl-C too
        terminal.show("\n")
    rate = f", {pieces.tokens_per_second:,.0f} tokens/s" if pieces.tokens_per_second else ""
    terminal.note(f"{len(pieces.ids)} tokens{rate}, step {loaded.step}, seed {seed}")
    if attention is not None:
        terminal.note(f"attention of the prompt: {attention}")


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

    from ..generation.translate import translate

    if not prompt:
        raise typer.BadParameter("a translation needs something to translate: give --prompt TEXT.")
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
    tokens = len(answer.log_probabilities)  # END too: it was written as well
    rate = tokens / (perf_counter() - began)
    pictures: list[Path] = []
    if attention is not None:
        from ..generation.attention import draw_translation

        pictures = draw_translation(loaded.model, loaded.tokenizer, prompt, answer.ids, attention)
    if json:
        facts = {"run": run, "step": loaded.step, "prompt": prompt, "text": answer.text, "ended": answer.ended}
        facts |= {"log_probability": answer.log_probability, "log_probabilities": answer.log_probabilities}
        terminal.print_json(facts | {"tokens": tokens, "tokens_per_second": rate})
        return
    terminal.show(f"{answer.text}\n")
    terminal.note(f"{tokens} tokens, {rate:,.0f} tokens/s, step {loaded.step}")
    if pictures:
        terminal.note(f"attention: {', '.join(map(str, pictures))}")
