r"""Chat templates: messages of a conversation become the text that a model was trained to continue.

    messages  [{"role": "user", "content": "Hello"}]
    template  {% for message in messages %}{{ "<|im_start|>" + message.role + "\n" + message.content }}...
    text      <|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n

A template is a small program that comes with the model, from a stranger. It runs in the sandbox of Jinja, which cannot
change what it is given nor reach anything else; the sizes of what it makes and its time are limited. The names that
Transformers gives to templates are there: raise_exception, strftime_now, the filter tojson, and the tag generation.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from time import monotonic
from typing import Any

from ..errors import DataError, MissingExtraError

__all__ = ["ChatTemplate", "Message"]

Message = Mapping[str, Any]

MOST_CHARACTERS = 4 << 20  # of a rendered conversation, and of anything that is repeated or padded
SECONDS = 5.0
PADDING = ("center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill")  # make a long text of a number


class ChatTemplate:
    """A compiled template. texts: those of special tokens by name, {"bos_token": "<s>"}.

    Raises:
        MissingExtraError: Jinja is not installed. DataError: the source is no template.
    """

    def __init__(self, source: str, texts: Mapping[str, str] | None = None) -> None:
        self.source, self.texts = source, dict(texts or {})
        environment = _environment()
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # syntax, or a constant that cannot be computed
            raise DataError(
                f"ChatTemplate: the model's chat template is no Jinja template: {_short(error)}."
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the source: Jinja's compiled template cannot be."""
        return type(self), (self.source, self.texts)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True, **variables: Any) -> str:
        """Return the text of a conversation.

        add_generation_prompt: end with what begins an answer. variables: others that the template reads, such as tools.

        Raises:
            DataError: the template refuses the messages, breaks a rule of the sandbox, or is too long or too slow.
        """
        given = {"tools": None, "documents": None, **self.texts, **variables}
        given |= {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        pieces: list[str] = []
        length = 0
        try:
            with _time_limit(SECONDS):
                for piece in self._template.generate(given):
                    length += len(piece)
                    if length > MOST_CHARACTERS:
                        raise ValueError(f"the text has more than {MOST_CHARACTERS:,} characters")
                    pieces.append(piece)
        except Exception as error:  # whatever a program of a stranger raises
            raise DataError(
                f"ChatTemplate: the model's chat template cannot be applied to these messages: {_short(error)}. "
                "Change the messages, or give the prompt as the model's documentation writes it: compyute generate."
            ) from error
        return "".join(pieces)


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:300].rstrip(".")


def _environment() -> Any:
    """Return Jinja's sandbox with what templates of Transformers use."""
    try:
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingExtraError(
            "ChatTemplate: chat templates need Jinja. pip install 'compyute-transformer[chat]'"
        ) from error
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        """The tag around what an assistant said; it leaves the text as it is."""

        tags = {"generation"}  # noqa: RUF012  (Jinja declares it so)

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Sandbox(ImmutableSandboxedEnvironment):
        """A sandbox that also refuses to make huge texts, lists and numbers."""

        intercepted_binops = frozenset(["*", "**", "%"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            numbers = isinstance(left, int | float) and isinstance(right, int | float)
            if operator == "**" or (operator == "%" and not numbers):
                raise ValueError(f"{operator} is not allowed here")
            if operator == "*":
                for repeated, times in ((left, right), (right, left)):
                    if hasattr(repeated, "__len__") and len(repeated) * times > MOST_CHARACTERS:
                        raise ValueError("a text or a list is repeated too often")
            return super().call_binop(context, operator, left, right)

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            return attr not in PADDING and super().is_safe_attribute(obj, attr, value)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    for name in ("center", "format"):
        del environment.filters[name]
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": _strftime_now}
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent and min(indent, 16), **options)


def _raise(message: str) -> None:
    raise ValueError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError at the next line of Python that is run later than this, also in an endless loop."""
    end = monotonic() + seconds

    def trace(_frame: Any, _event: str, _argument: Any) -> Any:
        if monotonic() > end:
            raise TimeoutError(f"it takes longer than {seconds:.0f} s")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
