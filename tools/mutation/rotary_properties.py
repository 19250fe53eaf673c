"""What rotary positions keep beyond right gradients: the frequencies, the tables, and the module around them.

Each of the four ways to scale frequencies is held to its published formula, written here column by column. Probes draw
sizes and scalings at random, so that mutants of these functions can be told equivalent.
"""

from collections.abc import Iterator
from functools import partial
from math import ceil, log, pi
from typing import Any, get_args

import numpy as np

from compyute_transformer.nn import RotaryPosition
from compyute_transformer.ops.rotary import RotaryScaling, Scaling, rotary_frequencies, rotary_tables
from compyute_transformer.verify.result import Result, relative_error

from .probes import Probe
from .properties import Property, check_that, measured

__all__ = ["rotary_probes", "rotary_properties"]

EXACT = 1e-13
LLAMA3 = RotaryScaling("llama3", 8.0, 8192, 1.5, 5.0)
DYNAMIC = RotaryScaling("dynamic", 2.0, 6)
YARN: tuple[tuple[int, float, RotaryScaling], ...] = (  # width, theta, scaling
    (32, 1000.0, RotaryScaling("yarn", 4.0, 256, beta_fast=16.0, beta_slow=2.0)),
    (32, 1000.0, RotaryScaling("yarn", 4.0, 256, beta_fast=16.0, beta_slow=2.0, truncate=False)),
    (32, 1000.0, RotaryScaling("yarn", 4.0, 256, beta_fast=9.0, beta_slow=9.0, truncate=False)),  # a step, no ramp
    (8, 10.0, RotaryScaling("yarn", 4.0, 10000, beta_fast=512.0)),  # the ramp ends past the columns
    (8, 10000.0, RotaryScaling("yarn", 4.0, 4)),  # it begins before them
    (32, 1000.0, RotaryScaling("yarn", 4.0, 1)),  # it ends before them
)


def rotary_properties() -> Iterator[Property]:
    """Every property of rotary positions, with its name."""
    yield "frequencies plain", _plain_frequencies
    yield "frequencies dynamic", _dynamic_frequencies
    yield "frequencies llama3", _llama3_frequencies
    for index, (width, theta, scaling) in enumerate(YARN):
        yield f"frequencies yarn {index}", partial(_yarn_frequencies, width, theta, scaling)
    yield "tables", _tables
    for scaling in (None, DYNAMIC, RotaryScaling("llama3", 2.0, 6), RotaryScaling("yarn", 2.0, 6, beta_fast=3.0)):
        kind = "plain" if scaling is None else scaling.kind
        yield f"RotaryPosition {kind}", partial(_position, scaling)


def _same(case: str, found: Any, wanted: Any) -> Result:
    error = relative_error(np.asarray(found), np.asarray(wanted))
    return measured("rotary_frequencies", case, "each frequency", error, EXACT)


def _plain(width: int, theta: float) -> list[float]:
    return [1.0 / theta ** (2 * pair / width) for pair in range(width // 2)]


def _plain_frequencies() -> Iterator[Result]:
    yield _same("theta", rotary_frequencies(6, 500.0), _plain(6, 500.0))
    yield _same("theta left out", rotary_frequencies(6), _plain(6, 10000.0))
    linear = RotaryScaling("linear", 4.0, 8)
    yield _same("linear", rotary_frequencies(6, 500.0, linear, 20), [f / 4.0 for f in _plain(6, 500.0)])


def _dynamic_frequencies() -> Iterator[Result]:
    scaling = RotaryScaling("dynamic", 3.0, 64)
    for length in (0, 63, 64):
        yield _same(f"length {length}", rotary_frequencies(8, 10000.0, scaling, length), _plain(8, 10000.0))
    for length in (65, 200):
        theta = 10000.0 * (3.0 * length / 64 - (3.0 - 1.0)) ** (8 / (8 - 2))
        yield _same(f"length {length}", rotary_frequencies(8, 10000.0, scaling, length), _plain(8, theta))
    yield _same("one pair", rotary_frequencies(2, 10000.0, scaling, 200), [1.0])


def _llama3_frequencies() -> Iterator[Result]:
    wanted = []
    for frequency in _plain(128, 500000.0):
        wavelength = 2 * pi / frequency
        smooth = (8192 / wavelength - 1.5) / (5.0 - 1.5)
        if wavelength < 8192 / 5.0:
            wanted.append(frequency)
        elif wavelength > 8192 / 1.5:
            wanted.append(frequency / 8.0)
        else:
            wanted.append((1 - smooth) * frequency / 8.0 + smooth * frequency)
    for found, expected in zip(rotary_frequencies(128, 500000.0, LLAMA3), wanted, strict=True):
        yield _same("llama3", found, expected)  # each by itself: the highest is a thousand times the lowest


def _yarn_frequencies(width: int, theta: float, scaling: RotaryScaling) -> Iterator[Result]:
    ends = [
        width * log(scaling.original_length / (turns * 2 * pi)) / (2 * log(theta))
        for turns in (scaling.beta_fast, scaling.beta_slow)
    ]
    start, end = (-ceil(-ends[0]), ceil(ends[1])) if scaling.truncate else ends
    start, end = max(start, 0), min(end, width - 1)
    found = rotary_frequencies(width, theta, scaling)
    for pair, frequency in enumerate(_plain(width, theta)):
        ramp = float(pair > start) if start == end else min(1.0, max(0.0, (pair - start) / (end - start)))
        wanted = frequency / scaling.factor * ramp + frequency * (1.0 - ramp)
        yield _same(f"yarn, pair {pair}", found[pair], wanted)


def _tables() -> Iterator[Result]:
    frequencies = np.array(_plain(8, 10000.0))
    for scale in ({}, {"scale": 1.5}):
        for name, table, function in zip(
            ("cos", "sin"), rotary_tables(frequencies, 3, 4, np.float64, **scale), (np.cos, np.sin), strict=True
        ):
            wanted = [[scale.get("scale", 1.0) * function(t * f) for f in frequencies] for t in (3, 4, 5, 6)]
            yield measured("rotary_tables", "", name, relative_error(table, np.array(wanted)), EXACT)


def _position(scaling: RotaryScaling | None) -> Iterator[Result]:
    """Turn complex numbers: of the columns of a pair, one is the real part and the other the imaginary part.

    Texts end before the original length, at it and past it, and begin later where their frequencies allow it.
    """
    module = RotaryPosition(4, theta=100.0, scaling=scaling).eval()
    x = np.random.default_rng(5).normal(size=(2, 3, 9, 6))
    spans = [(0, 4), (0, 6), (2, 6), (0, 7), (0, 9)] + ([(4, 9)] if scaling is not DYNAMIC else [])
    for start, end in spans:
        frequencies = rotary_frequencies(4, 100.0, scaling, end)
        angles = np.array([[t * f for f in frequencies] for t in range(start, end)])
        turned = (x[:, :, start:end, :2] + 1j * x[:, :, start:end, 2:4]) * np.exp(1j * angles)
        turned = turned * (1.0 if scaling is None else scaling.scale)
        wanted = np.concatenate([turned.real, turned.imag, x[:, :, start:end, 4:]], axis=-1)
        found = module(x[:, :, start:end], start) if start else module(x[:, :, :end])
        yield measured("RotaryPosition", f"{start} to {end}", "y", relative_error(found, wanted), EXACT)
    refused = False
    try:
        module(x[:, :, 4:], 4)
    except ValueError as error:
        refused = "dynamic scaling" in str(error)
    yield check_that("RotaryPosition", "refuses other frequencies behind a cache", refused == (scaling is DYNAMIC))


# --- probes ----------------------------------------------------------------------------------------------------------


def rotary_probes(seed: int) -> Iterator[Probe]:
    """Probes of the frequencies and of the module, the same for the same seed."""
    for number, kind in enumerate(get_args(Scaling) * 8):
        yield Probe(f"rotary_frequencies {kind} {number}", partial(_run_frequencies, kind, [seed, 13, number]))


def _run_frequencies(kind: str, seed: list[int]) -> Any:
    rng = np.random.default_rng(seed)
    width, theta, length = 2 * int(rng.integers(1, 20)), 10.0 ** rng.uniform(0.5, 6), int(rng.integers(1, 200))
    beta = float(rng.uniform(0.5, 8))
    scaling = RotaryScaling(
        kind,
        float(rng.uniform(1, 9)),
        int(rng.integers(1, 100)),
        beta_fast=beta * float(rng.choice([1.0, 4.0])),  # the same as beta_slow: a step instead of a ramp
        beta_slow=beta,
        truncate=bool(rng.random() < 0.5),
    )
    left_out = [rotary_frequencies(width), rotary_frequencies(width, theta, scaling)]
    frequencies = rotary_frequencies(width, theta, scaling, length)
    one_pair = rotary_frequencies(2, theta, scaling, length)
    module, x = RotaryPosition(width, theta=theta, scaling=scaling), rng.normal(size=(1, 2, length, width))
    results = [*left_out, frequencies, one_pair, *rotary_tables(frequencies, 1, 3, np.float64), module(x)]
    return (*results, module.backward(x[..., ::-1]), rotary_tables(frequencies, 0, 2, scale=1.5)[0])
