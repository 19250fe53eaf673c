"""`compyute generate`: continue a text with a trained model, or translate one."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from ..errors import CorpusError
from ..generation.sampling import Sampling
from . import terminal
from .models import Draft, ModelPath, OpenedModel, open_draft, open_model, products_of
from .options import Checkpoint, HeldWeights, Json, Kernels, OnDevice, Products, flag, unescape, with_options

__all__ = ["generate"]

# Options that one kind of run has and the other refuses.
OF_LANGUAGE = ("stride", "draft")
OF_SEARCH = ("beam", "length_penalty")
RANDOM = ("temperature", "top_k", "top_p", "min_p", "seed")  # with one of these a translation is sampled
STEPWISE = (*RANDOM, "repetition_penalty", "stop")  # with the last two alone it is greedy; without any, searched for
MOST_TOKENS = 200
FIRST = ("prompt", "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop")


@dataclass(frozen=True)
class Request:
    """What `compyute generate` is asked for besides the options of sampling."""

    run: ModelPath
    prompt: Annotated[
        str,
        typer.Option(help=r"Text to continue or to translate, where \n is a line end; FILE:path reads it from a file."),
    ] = ""
    max_new_tokens: Annotated[
        int | None, typer.Option(help=f"Generate at most this many tokens. Default: {MOST_TOKENS}.")
    ] = None
    stride: Annotated[
        int | None,
        typer.Option(
            help="Tokens by which the window moves when the text is longer than the context; more is faster. "
            "Default: 1."
        ),
    ] = None
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache", help="Cache keys and values. Without the cache the text is the same, but slower."
        ),
    ] = True
    draft: Draft = None
    beam: Annotated[
        int | None,
        typer.Option(help="Number of hypotheses in beam search. Default: of a translation 1, greedy search."),
    ] = None
    length_penalty: Annotated[
        float | None,
        typer.Option(help="With --beam: how much longer texts are favored. Default: 0.6."),
    ] = None
    choices: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...", help="Print the most probable of these continuations, and how probable each is."
        ),
    ] = None
    attention: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw the attention weights of the prompt, a panel for each head; of a translation three pictures, "
            "FILE-encoder.png, FILE-decoder.png and FILE-cross.png.",
        ),
    ] = None
    checkpoint: Checkpoint = "best"
    weights: HeldWeights = "float32"
    precision: Products = "float32"
    device: OnDevice = "cpu"
    kernels: Kernels = "auto"
    json: Json = False

    @property
    def most_tokens(self) -> int:
        """The number of tokens to generate at most."""
        return MOST_TOKENS if self.max_new_tokens is None else self.max_new_tokens

    @property
    def writing(self) -> dict[str, Any]:
        """The options that are given here and have an effect only where text is generated."""
        given = {"max_new_tokens": self.max_new_tokens, "attention": self.attention}
        given["no_cache"] = None if self.cache else True
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Job:
    """A request with its run, loaded, and its prompt, read."""

    request: Request
    loaded: Any
    prompt: str


@with_options([Sampling], FIRST)
def generate(request: Request, **sampling: Any) -> None:
    """Generate text with a trained model, or translate.

    A translation is found by search, unless an option of sampling is given.
    """
    with terminal.loading():
        from ..dispatch import use_kernels
        from ..precision import use_precision

    products = products_of(request.precision, request.device)
    chosen = {name: value for name, value in sampling.items() if value}
    chosen |= {name: value for name, value in sampling.items() if value is not None and name != "stop"}
    others = {name: getattr(request, name) for name in (*OF_LANGUAGE, *OF_SEARCH)}
    search = {name: value for name, value in others.items() if value is not None}
    prompt = read_prompt(request.prompt)
    with use_kernels(request.kernels), use_precision(products):
        loaded = open_model(request.run, request.checkpoint, request.device, request.weights)
        kind = loaded.kind
        check_kind(request.run, loaded, search)
        if kind == "translation":
            prompt = prompt.strip()
            check_translation(prompt)
        if kind == "translation" or search.keys() & {*OF_SEARCH}:
            check_search(chosen, search)
        job = Job(request, loaded, prompt)
        if request.choices is not None:
            pick(job, {**chosen, **search, **request.writing})
            return
        if kind == "language" and search.keys() & {*OF_SEARCH}:
            continue_by_search(job)
            return
        if kind == "translation" and not chosen:
            translate_by_search(job)
            return
        if "stop" in chosen:
            chosen["stop"] = [unescape(text) for text in chosen["stop"]]
        if kind == "translation" and not chosen.keys() & {*RANDOM}:
            chosen["temperature"] = 0.0
        write(job, replace(loaded.defaults or Sampling(), **chosen), search)


def read_prompt(prompt: str) -> str:
    """Return the prompt of the command line, or of its file without the last line end."""
    if not prompt.startswith("FILE:"):
        return unescape(prompt)
    from ..data import load_corpus

    file = prompt.removeprefix("FILE:")
    if not Path(file).is_file():
        raise CorpusError(f"generate: --prompt FILE:path must name a file of text, and there is no file {file!r}.")
    return load_corpus(Path(file)).text.removesuffix("\n").removesuffix("\r")


def check_kind(run: str, loaded: OpenedModel, given: Collection[str]) -> None:
    """Refuse a model that generates no text, and options that its kind does not have."""
    kind, evaluate = loaded.kind, f"Evaluate it: compyute eval {run}"
    if kind == "masked":
        use = f"Embed texts with it: compyute embed {run} FILES" if loaded.step is None else evaluate
        raise typer.BadParameter(f"{run} predicts hidden tokens and generates no text. {use}")
    if kind == "labels":
        raise typer.BadParameter(f"{run} learned labels and generates no text. Ask it: compyute predict {run} FILE")
    if kind == "images":
        use = "Use it in Python: AutoModel.from_pretrained" if loaded.step is None else evaluate
        raise typer.BadParameter(f"{run} classifies images and generates no text. {use}")
    for option in given:
        if option in OF_LANGUAGE and (kind == "translation" or "beam" in given):
            what = "--beam" if "beam" in given else f"a run that learned {kind}"
            raise typer.BadParameter(f"{flag(option)} has no effect with {what}: leave it out.")


def check_translation(prompt: str) -> None:
    """Refuse an empty source."""
    if not prompt:
        raise typer.BadParameter("a translation needs a source: give --prompt TEXT.")


def check_search(sampling: Collection[str], search: "dict[str, Any]") -> None:
    """Refuse options of search and of sampling together."""
    for option in search:
        if sampling:
            raise typer.BadParameter(
                f"{flag(option)} is an option of search, and {flag(min(sampling))} of sampling: leave one of them out."
            )
    if "length_penalty" in search and search.get("beam", 1) == 1:
        raise typer.BadParameter("--length-penalty compares the hypotheses of a beam search: give --beam 4, say.")


def pick(job: Job, given: Collection[str]) -> None:
    """Print the most probable of some continuations."""
    from ..generation import choose

    run, kind = job.request.run, job.loaded.kind
    if kind != "language":
        raise typer.BadParameter(f"--choices is for a model of language, and {run} learned {kind}: leave it out.")
    for option in given:
        raise typer.BadParameter(f"{flag(option)} has no effect with --choices, which writes no text: leave it out.")
    texts = [unescape(text) for text in (job.request.choices or "").split(",")]
    found = choose(job.loaded.model, job.loaded.tokenizer, job.loaded.encode(job.prompt) or job.prompt, texts)
    if job.request.json:
        rows = [choice._asdict() for choice in found]
        terminal.print_json({"run": job.request.run, "prompt": job.prompt, "text": found[0].text, "choices": rows})
        return
    terminal.show(f"{found[0].text}\n")
    terminal.note(", ".join(f"{choice.text} {choice.probability:.1%}" for choice in found))


def write(job: Job, sampling: Sampling, options: "dict[str, Any]") -> None:
    """Generate a text token by token, and print it as it comes."""
    from ..generation import stream, stream_translation

    request, loaded, prompt, translates = job.request, job.loaded, job.prompt, job.loaded.kind == "translation"
    if not translates:
        options = options | {"stop_ids": loaded.stop_ids}
    if "draft" in options:
        draft = open_draft(options["draft"], loaded.model, loaded.tokenizer, request.device)
        options = options | {"draft": draft}
    if loaded.ignored:
        terminal.note(f"generation_config.json: {', '.join(loaded.ignored)} has no effect here.")
    pieces = (stream_translation if translates else stream)(
        loaded.model,
        loaded.tokenizer,
        loaded.encode(prompt) or prompt,
        sampling=sampling,
        max_new_tokens=request.most_tokens,
        cached=request.cache,
        **options,
    )
    pictures = [] if translates else draw_attention_of(job, ())
    if request.json:
        text = "".join(pieces)
    else:
        try:
            first = next(pieces, "")  # kernels that are compiled for it say so on a line of their own, before the text
            terminal.show("" if translates else prompt)
            terminal.show(first)
            for piece in pieces:
                terminal.show(piece)
        finally:  # after Ctrl-C too
            terminal.show("\n")
    if translates:
        pictures = draw_attention_of(job, pieces.ids)
    if request.json:
        facts = {"run": request.run, "step": loaded.step, "seed": sampling.seed, "prompt": prompt, "text": text}
        facts |= {"stopped": pieces.stopped, "tokens": len(pieces.ids), "tokens_per_second": pieces.tokens_per_second}
        facts |= {"ended": pieces.ended, "drafted": pieces.drafted, "accepted": pieces.accepted}
        terminal.print_json(facts | {"log_probabilities": pieces.log_probabilities})
        return
    rate = f", {pieces.tokens_per_second:,.0f} tokens/s" if pieces.tokens_per_second else ""
    seeded = f", seed {sampling.seed}" if sampling.temperature or not translates else ""
    terminal.note(f"{len(pieces.ids)} tokens{rate}{drafted(pieces)}{loaded.origin}{seeded}")
    note_pictures(pictures)


def drafted(pieces: Any) -> str:
    """Return what a note says of the tokens that a draft guessed; nothing without a draft."""
    return f", {pieces.accepted} of {pieces.drafted} guesses right" if pieces.drafted else ""


def translate_by_search(job: Job) -> None:
    """Translate the prompt by greedy or beam search, and print the translation."""
    from ..generation import translate

    request, loaded, began = job.request, job.loaded, perf_counter()
    found = translate(
        loaded.model,
        loaded.tokenizer,
        [job.prompt],
        beam_size=1 if request.beam is None else request.beam,
        length_penalty=0.6 if request.length_penalty is None else request.length_penalty,
        max_new_tokens=request.most_tokens,
        cached=request.cache,
    )[0]
    seconds, tokens = perf_counter() - began, len(found.log_probabilities)  # the end token counts: it was generated
    pictures = draw_attention_of(job, found.ids)
    if request.json:
        facts = {"run": request.run, "step": loaded.step, "prompt": job.prompt, "text": found.text}
        facts |= {"ended": found.ended, "log_probability": found.log_probability}
        facts |= {"log_probabilities": found.log_probabilities}
        terminal.print_json(facts | {"tokens": tokens, "tokens_per_second": tokens / seconds})
        return
    terminal.show(f"{found.text}\n")
    # Most of the time goes to loading the kernels, so that a rate would say little about so few tokens.
    terminal.note(f"{tokens} tokens in {seconds:.2g} s{loaded.origin}")
    note_pictures(pictures)


def continue_by_search(job: Job) -> None:
    """Print the continuation of the prompt that beam search finds."""
    from ..generation import beam_search

    request, loaded, began = job.request, job.loaded, perf_counter()
    if not request.cache:
        raise typer.BadParameter("--no-cache has no effect with --beam: leave it out.")
    found = beam_search(
        loaded.model,
        loaded.tokenizer,
        loaded.encode(job.prompt) or job.prompt,
        max_new_tokens=request.most_tokens,
        beam_size=1 if request.beam is None else request.beam,
        length_penalty=0.6 if request.length_penalty is None else request.length_penalty,
        stop_ids=loaded.stop_ids,
    )
    seconds, tokens = perf_counter() - began, len(found.log_probabilities)
    pictures = draw_attention_of(job, ())
    if request.json:
        facts = {"run": request.run, "step": loaded.step, "prompt": job.prompt, "text": found.text}
        facts |= {"ended": found.ended, "score": found.score, "log_probabilities": found.log_probabilities}
        terminal.print_json(facts | {"tokens": tokens, "tokens_per_second": tokens / seconds})
        return
    terminal.show(f"{job.prompt}{found.text}\n")
    terminal.note(f"{tokens} tokens in {seconds:.2g} s{loaded.origin}")
    note_pictures(pictures)


def draw_attention_of(job: Job, ids: Sequence[int]) -> list[Path]:
    """Draw the attention weights of a prompt, or of a source and its translation. Return the pictures' paths."""
    loaded, path = job.loaded, job.request.attention
    if path is None:
        return []
    from ..generation.pictures import save_prompt_attention, save_translation_attention

    if loaded.kind == "translation":
        return save_translation_attention(loaded.model, loaded.tokenizer, job.prompt, tuple(ids), path)
    save_prompt_attention(loaded.model, loaded.tokenizer, job.prompt, path)
    return [path]


def note_pictures(pictures: Sequence[Path]) -> None:
    """Print where pictures were written."""
    if pictures:
        terminal.note(f"attention: {', '.join(map(str, pictures))}")
