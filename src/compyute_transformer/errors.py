"""Every error the library raises on purpose, so that one `except` can catch as much or as little as it means to.

CompyuteError
├── InputError            an argument breaks a rule (also a ValueError)
│   ├── ShapeError        an axis is missing, too many, or of the wrong length
│   ├── ArgumentError     arguments that do not fit the signature (also a TypeError)
│   ├── DtypeError        numbers of the wrong kind, or of different kinds
│   ├── DeviceError       arrays on different devices
│   └── RangeError        a value outside its range: a probability, a window, a token id, a position
├── BackwardError         a backward pass without the forward pass it belongs to
├── BackendError          a kernel was asked for and there is none; no GPU; a missing array library
├── StateError            a state dict that does not fit the module
├── ConfigError           a setting that does not exist or cannot hold
├── DataError             a corpus that cannot be used
│   ├── CorpusError       missing, empty, not text, shorter than one context
│   ├── VocabularyError   a character the tokenizer has never seen
│   └── DownloadError     a corpus that could not be fetched, or came damaged
├── RunError              a run folder that cannot be used
│   └── CheckpointError   no whole checkpoint, or one that does not fit
├── NonFiniteError        a loss or gradient that is NaN or infinite
├── ParallelError         processes that train one model disagree, or one of them is gone
├── ParityError           candidates of a benchmark that do not compute the same
├── VerificationError     a gradient that differs from finite differences
└── MissingExtraError     an optional package is needed; the message says what to install

A message names the operation, the rule, what came, and the remedy, in that order.
"""

__all__ = [
    "ArgumentError",
    "BackendError",
    "BackwardError",
    "CheckpointError",
    "CompyuteError",
    "ConfigError",
    "CorpusError",
    "DataError",
    "DeviceError",
    "DownloadError",
    "DtypeError",
    "InputError",
    "MissingExtraError",
    "NonFiniteError",
    "ParallelError",
    "ParityError",
    "RangeError",
    "RunError",
    "ShapeError",
    "StateError",
    "VerificationError",
    "VocabularyError",
]


MOST_CHARACTERS = 1000  # of a line; what came may be a whole file


def _short(line: str) -> str:
    if len(line) <= MOST_CHARACTERS:
        return line
    half = MOST_CHARACTERS // 2 - 20
    return f"{line[:half]} ({len(line) - 2 * half:,} characters) {line[-half:]}"


def _visible(character: str) -> str:
    if character.isprintable() or character in "\n\t":
        return character
    from unicodedata import category

    controls = category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return ascii(character)[1:-1] if controls else character


class CompyuteError(Exception):
    """The root: catches everything this library raises on purpose."""

    def __str__(self) -> str:
        """Return the message: long lines cut, and what controls a terminal escaped, as a file may hold either."""
        text = super().__str__()
        if len(text) > MOST_CHARACTERS:
            text = "\n".join(map(_short, text.split("\n")))
        return text if text.isprintable() else "".join(map(_visible, text))


class InputError(CompyuteError, ValueError):
    """An argument breaks a rule of the function it was given to."""


class ShapeError(InputError):
    """An axis is missing, superfluous, or of the wrong length."""


class ArgumentError(InputError, TypeError):
    """Arguments that do not fit the signature of what was called."""


class DtypeError(InputError, TypeError):
    """Numbers of the wrong kind, or of kinds that differ."""


class DeviceError(InputError):
    """Arrays that live on different devices."""


class RangeError(InputError):
    """A value outside its range."""


class BackwardError(CompyuteError, RuntimeError):
    """A backward pass without the forward pass it belongs to."""


class BackendError(CompyuteError, RuntimeError):
    """A kernel or a device was asked for by name and cannot be used."""


class StateError(CompyuteError, ValueError):
    """A state dict that does not fit the module it is loaded into."""


class ConfigError(CompyuteError, ValueError):
    """A setting that does not exist, or settings that cannot hold together."""


class DataError(CompyuteError):
    """Data that cannot be used."""


class CorpusError(DataError, ValueError):
    """A corpus that is missing, empty, not text, or shorter than one context."""


class VocabularyError(DataError, ValueError):
    """A character the tokenizer has never seen."""


class DownloadError(DataError, OSError):
    """A corpus that could not be fetched, or arrived damaged."""


class RunError(CompyuteError):
    """A run folder that cannot be used."""


class CheckpointError(RunError):
    """No whole checkpoint, or one that does not fit."""


class NonFiniteError(CompyuteError, ArithmeticError):
    """A loss or a gradient that is NaN or infinite."""


class ParallelError(CompyuteError, RuntimeError):
    """Processes that train one model disagree, or one of them is gone."""


class ParityError(CompyuteError, AssertionError):
    """Candidates of a benchmark that do not compute the same; nothing was timed."""


class VerificationError(CompyuteError, AssertionError):
    """A gradient that differs from finite differences."""


class MissingExtraError(CompyuteError, ImportError):
    """An optional package is needed; the message says what to install."""
