"""`compyute chat`: talk to a model that was trained to answer."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import RangeError
from ..generation.sampling import Sampling
from . import terminal
from .generate import drafted
from .models import Draft, kind_of_weights, open_draft, products_of
from .options import HeldWeights, Json, Kernels, OnDevice, Products, unescape, with_options

__all__ = ["chat"]

MOST_TOKENS = 512  # of an answer, where neither the user nor the model's makers say
FIRST = ("prompt", "system", "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")


@dataclass(frozen=True)
class Request:
    """What `compyute chat` is asked for besides the options of sampling."""

    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A directory of Hugging Face Transformers, a .gguf file, or the name of an installed package that "
            "holds one.",
        ),
    ]
    prompt: Annotated[
        str | None,
        typer.Option(
            help=r"Ask this, where \n is a line end, and exit. Without it: one message a line, until the end."
        ),
    ] = None
    system: Annotated[
        str | None, typer.Option(help="What the model is told before the conversation. Default: the template's own.")
    ] = None
    max_new_tokens: Annotated[
        int | None,
        typer.Option(help=f"Most tokens of an answer. Default: those of generation_config.json, or {MOST_TOKENS}."),
    ] = None
    context_length: Annotated[
        int | None, typer.Option(help="Most tokens of the conversation; fewer take less memory. Default: the model's.")
    ] = None
    weights: HeldWeights = "float32"
    precision: Products = "float32"
    draft: Draft = None
    device: OnDevice = "cpu"
    kernels: Kernels = "auto"
    json: Json = False


@with_options([Sampling], (*FIRST, "stop"))
def chat(request: Request, **sampling: Any) -> None:
    """Chat with a model that has a chat template. The answer appears while it is written.

    Without options of sampling the model answers as its generation_config.json says; without one, by the most
    probable token each time.
    """
    with terminal.loading():
        from ..dispatch import use_kernels
        from ..exchange import Pretrained, is_pretrained, merge_lora, model_path
        from ..nn.quantize import quantize_weights
        from ..precision import use_precision
        from ..training import load_run
        from ..training.run.start import PUBLISHED

    products = products_of(request.precision, request.device)
    held = kind_of_weights(request.weights, request.device)
    length = {} if request.context_length is None else {"context_length": request.context_length}
    if is_pretrained(model_path(request.model)):
        opened = Pretrained(request.model, weights=held, **length)
    elif length or not (Path(request.model) / PUBLISHED).is_dir():
        raise typer.BadParameter(
            f"{request.model} is no directory with the config.json of a published model, no .gguf file and no "
            "installed package with one inside. Give one of these. A run continues texts: compyute generate RUN"
        )
    else:  # a run that went on from a model that chats
        opened = Pretrained(Path(request.model) / PUBLISHED)
        run = load_run(request.model)
        run.model.precision = None  # as in `open_model`
        opened.model, opened.tokenizer = merge_lora(run.model), run.tokenizer
        if held is not None:
            quantize_weights(opened.model, held)
    _ = opened.chat_template  # a model without one is refused before it is read
    chosen = {name: value for name, value in sampling.items() if value is not None and value != []}
    if "stop" in chosen:
        chosen["stop"] = [unescape(text) for text in chosen["stop"]]
    with use_kernels(request.kernels), use_precision(products):
        opened.model.to(request.device)
        draft = None
        if request.draft is not None:
            draft = open_draft(request.draft, opened.model, opened.tokenizer, request.device)
        if opened.defaults.ignored:
            terminal.note(f"generation_config.json: {', '.join(opened.defaults.ignored)} has no effect here.")
        how = replace(opened.defaults.sampling, stop_ids=opened.defaults.stop_ids, **chosen)
        most = request.max_new_tokens
        most = (opened.defaults.max_new_tokens or MOST_TOKENS) if most is None else most
        messages = [{"role": "system", "content": unescape(request.system)}] if request.system is not None else []
        for text in _messages(request.prompt):
            messages.append({"role": "user", "content": text})
            messages.append({"role": "assistant", "content": _answer(opened, messages, how, most, draft, request.json)})


def _messages(prompt: str | None) -> Iterator[str]:
    """Yield what the user says: the prompt, or the lines of the standard input that are not empty."""
    if prompt is not None:
        yield unescape(prompt)
        return
    asks = sys.stdin is not None and sys.stdin.isatty()
    if asks:
        terminal.note("One message a line. Ctrl-D ends the conversation, Ctrl-C an answer.")
    while True:
        if asks:
            terminal.show("> ")
        line = sys.stdin.readline() if sys.stdin is not None else ""
        if not line:
            return
        if line.strip():
            yield line.strip()


def _answer(opened: Any, messages: "list[dict[str, str]]", how: Sampling, most: int, draft: Any, json: bool) -> str:
    """Print the answer to a conversation while it is written, and return it. Ctrl-C ends it."""
    from ..generation import stream

    ids = opened.tokenizer.encode(opened.chat_template.render(messages)).tolist()
    left = opened.model.config.context_length - len(ids)
    if left < 1:
        raise RangeError(
            f"chat: a conversation has at most {opened.model.config.context_length} tokens, the context length, got "
            f"{len(ids)}. Begin a new one, or give a larger --context-length."
        )
    pieces = stream(
        opened.model,
        opened.tokenizer,
        ids,
        max_new_tokens=min(most, left),
        sampling=how,
        draft=draft,
    )
    text = ""
    try:
        for piece in pieces:
            text += piece
            if not json:
                terminal.show(piece)
    except KeyboardInterrupt:
        if json or sys.stdin is None or not sys.stdin.isatty():
            raise
    if json:
        facts: dict[str, Any] = {"prompt": messages[-1]["content"], "text": text, "ended": pieces.ended}
        facts |= {"drafted": pieces.drafted, "accepted": pieces.accepted}
        terminal.print_json(facts | {"tokens": len(pieces.ids), "tokens_per_second": pieces.tokens_per_second})
        return text
    terminal.show("\n")
    rate = f", {pieces.tokens_per_second:,.0f} tokens/s" if pieces.tokens_per_second else ""
    terminal.note(
        f"{len(pieces.ids)} tokens{rate}{drafted(pieces)}" + ("" if pieces.ended or pieces.stopped else ", not ended")
    )
    return text
