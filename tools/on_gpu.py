"""Check and measure everything that only a GPU can tell, the most telling lines first; `scripts/gpu` runs it.

    scripts/gpu wheels/ --seconds 540

Each line prints what was found beside what was predicted before any GPU was seen, and is appended at once to
benchmarks/results/GPU/first_run.csv. A line that fails prints its error, and the next one begins. Lines that would
begin after --seconds are left out and named at the end.
"""

import argparse
import csv
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from compyute_transformer.arrays import gpu_fault
from compyute_transformer.bench.workload import OurStep, Workload, workload
from compyute_transformer.dispatch import kernels_of, use_kernels
from compyute_transformer.generation import generate_ids
from compyute_transformer.generation.captured_decoder import CapturedDecoder
from compyute_transformer.ops.attention import Mask, fused_attention_backward, fused_attention_forward
from compyute_transformer.precision import use_precision
from compyute_transformer.training.captured import CapturedSteps, capture_fault

PACKAGES = (
    *("cupy-cuda13x", "ml-dtypes", "nvmath-python", "nvidia-cudnn-frontend", "nvidia-cudnn-cu13", "nvidia-cublas"),
    *("cuda-core", "cuda-bindings", "cuda-pathfinder", "torch", "numpy"),
)
COLUMNS = ("what", "value", "unit", "predicted", "gpu", "versions", "date")


class Line(NamedTuple):
    """One result. predicted: in words, with the unit of the value."""

    what: str
    value: float | str
    unit: str
    predicted: str


class Size(NamedTuple):
    """How large the work is: full, or small where only the script itself is tried."""

    square: int
    copied: int
    rows: int
    model: dict[str, Any]
    batches: tuple[int, ...]
    rounds: int
    vocab_size: int | None = None


FULL = Size(8192, 1 << 30, 65536, {}, (16, 32, 64), 10)
SMALL = Size(
    16, 1 << 10, 32, {"context_length": 16, "embed_dim": 16, "num_heads": 2, "num_layers": 1}, (2,), 2, 11
)  # fmt: skip


def cupy() -> Any:
    return import_module("cupy")


def milliseconds(run: Callable[[], object], rounds: int) -> float:
    """Return the time of one call on the device, after two calls to warm up."""
    for _ in range(2):
        run()
    begin, end = (cupy().cuda.Event() for _ in range(2))
    begin.record()
    for _ in range(rounds):
        run()
    end.record()
    end.synchronize()
    return float(cupy().cuda.get_elapsed_time(begin, end)) / rounds


# --- tests ---

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("tests/gpu", "tests/verify/test_kernels.py", "tests/verify/test_registry.py")
SECONDS_OF_TESTS = 180


def run_pytest(seconds: float) -> str:
    """Return what pytest printed: tests that need a GPU, and those that run on a stand-in elsewhere, failures last."""
    options = ["-q", "-rfE", "--tb=line", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-m", "gpu or device", *options]
    try:
        done = subprocess.run([*command, *TESTS], cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode(errors="replace") + f"\nnot done after {seconds:.0f} s"
    return done.stdout + done.stderr


def tests(size: Size) -> Iterator[Line]:
    """Yield how many tests fail on the GPU, and print which."""
    said = run_pytest(SECONDS_OF_TESTS)
    failures = re.findall(r"^(?:FAILED|ERROR) .*", said, re.MULTILINE)
    for failure in failures[:30]:
        print(f"      {failure[:200]}")
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?)\b", said)}
    if not counts:  # stopped, or pytest or what the tests import is not installed
        yield Line("tests on the GPU", (said.strip() or "nothing was said").splitlines()[-1], "", "0 fail")
        return
    failed = sum(count for word, count in counts.items() if word != "passed")
    yield Line("tests on the GPU that fail", failed, f"of {sum(counts.values())}", "0")


# --- lines -----------------------------------------------------------------------------------------------------------


def copies(size: Size) -> Iterator[Line]:
    """Yield the bandwidth of a copy."""
    source = cupy().ones(size.copied, np.float32)
    target = cupy().empty_like(source)
    time = milliseconds(lambda: cupy().copyto(target, source), size.rounds)
    yield Line("copy of 4 GB", 2 * source.nbytes / time / 1e9, "TB/s", "4.3 on an H200, 2.8 on an H100")


RNG = np.random.default_rng(0)


def random(*shape: int) -> Any:
    numbers = RNG.standard_normal(shape, np.float32)
    return cupy().asarray(numbers).astype(import_module("ml_dtypes").bfloat16)


def squares(size: Size) -> Iterator[Line]:
    """Yield the speed of one large product."""
    products, n = kernels_of("cuda", "_products"), size.square
    a, b, out = random(n, n), random(n, n), random(n, n)
    time = milliseconds(lambda: products.multiply(a, b, out, transposed=(False, True)), size.rounds)
    yield Line(f"product {n} x {n} x {n}, bfloat16", 2 * n**3 / time / 1e9, "TFLOP/s", "770 to 800")
    exact = a[:8].astype(np.float32) @ b.astype(np.float32).T
    error = float(abs(out[:8].astype(np.float32) - exact).max() / abs(exact).max())
    yield Line("its error beside float32", error, "of the largest", "below 5e-3")


def steps(size: Size) -> Iterator[Line]:
    """Yield the tokens a second of whole steps of GPT-2 124M: ours eager and captured, PyTorch's eager and compiled."""
    for batch in size.batches:
        work = workload("gpt2", {**size.model, "batch_size": batch, "device": "cuda"}, size.vocab_size)
        yield from our_steps(work, size.rounds)
        with suppress(ImportError):
            yield from torch_steps(work, size.rounds)


def our_steps(work: Workload, rounds: int) -> Iterator[Line]:
    """Yield ours."""
    batch = work.training.batch_size
    with use_precision("bfloat16"):
        step = OurStep(work)
        time = milliseconds(step, rounds)
        yield Line(f"GPT-2 step, batch {batch}, eager", work.tokens / time * 1e3, "tokens/s", "400,000 at batch 64")
        fault = capture_fault(step.model, step.optimizer)
        if fault is not None:
            yield Line(f"GPT-2 step, batch {batch}, captured", fault, "", "no fault")
            return
        captured = CapturedSteps(step.model, step.optimizer, 0.0, work.training.clip)
        inputs, targets = step.batches[0]

        def take() -> None:
            if captured.take((*inputs, targets), 1e-4) is None:
                step()

        time = milliseconds(take, rounds)
        yield Line(f"GPT-2 step, batch {batch}, captured", work.tokens / time * 1e3, "tokens/s", "520,000 at batch 64")
    yield Line("memory in use by CuPy", cupy().get_default_memory_pool().total_bytes() / 2**30, "GiB", "below 78")
    del step, captured
    cupy().get_default_memory_pool().free_all_blocks()


def torch_steps(work: Workload, rounds: int) -> Iterator[Line]:
    """Yield PyTorch's, from the same weights."""
    import torch

    from compyute_transformer.bench.torch_step import TorchStep

    state = work.model_case.model(work.config, work.training.seed).state_dict()
    torch.set_float32_matmul_precision("high")
    for mode in ("eager", "compiled"):
        step = TorchStep(work, state, "autocast")
        if mode == "compiled":
            step.run = torch.compile(step.model)
        for _ in range(3):
            step()
        began = perf_counter()
        for _ in range(rounds):
            step()  # which waits for the loss
        rate = work.tokens * rounds / (perf_counter() - began)
        batch = work.training.batch_size
        yield Line(f"GPT-2 step, batch {batch}, PyTorch {mode}", rate, "tokens/s", "330,000 to 460,000 at batch 64")
        del step
        torch.cuda.empty_cache()


def decoding(size: Size) -> Iterator[Line]:
    """Yield the tokens a second of GPT-2 124M that writes one text: captured, and launch by launch."""
    work = workload("gpt2", {**size.model, "dropout": 0.0, "device": "cuda"}, size.vocab_size)
    model = work.model_case.model(work.config, 0).eval().to("cuda")
    count = work.config.context_length // 2
    made = CapturedDecoder.from_model
    for precision in ("bfloat16", "float32"):
        texts = []
        for name in ("captured", "launch by launch"):
            with use_precision(precision), patch.object(CapturedDecoder, "from_model", made):
                if name != "captured":
                    CapturedDecoder.from_model = classmethod(lambda cls, model: None)  # type: ignore[assignment]
                generate_ids(model, np.array([1, 2, 3]), max_new_tokens=4, temperature=0.0)
                began = perf_counter()
                texts.append(generate_ids(model, np.array([1, 2, 3]), max_new_tokens=count, temperature=0.0))
                rate = count / (perf_counter() - began)
            predicted = "2,000 captured, 400 launch by launch; PyTorch eager 150"
            yield Line(f"GPT-2 decodes one text, {precision}, {name}", rate, "tokens/s", predicted)
        same = float((texts[0] == texts[1]).mean())
        yield Line(f"tokens that are the same in both, {precision}", same, "of all", "1 but for near ties")


def attentions(size: Size) -> Iterator[Line]:
    """Yield errors and times of attention, forward and backward, by mask."""
    T = 1024 if size is FULL else 16
    masks = {
        "causal": Mask(causal=True),
        "full": Mask(),
        "window": Mask(causal=True, window=T // 4),
        "two-sided window": Mask(window=T // 4),
        "lengths": Mask(key_lengths=cupy().asarray(np.array([T, T // 2, 1, T // 3], np.int32))),
        "causal lengths": Mask(causal=True, key_lengths=cupy().asarray(np.array([T, T // 2, 1, T // 3], np.int32))),
    }
    for name, mask in masks.items():
        for K in (12, 4):
            arrays = [random(4, heads, T, 64).astype(np.float32) for heads in (12, K, K)]
            dy = random(4, 12, T, 64).astype(np.float32)
            with use_kernels("reference"):
                y, saved = fused_attention_forward(*arrays, mask)
                expected = (y, *fused_attention_backward(dy, saved))
            with use_precision("bfloat16"):
                y, saved = fused_attention_forward(*arrays, mask)
                found = (y, *fused_attention_backward(dy, saved))
            errors = [float(abs(a - b).max() / abs(b).max()) for a, b in zip(found, expected, strict=True)]
            yield Line(f"attention {name}, {K} kv heads: error of y", errors[0], "of the largest", "below 1e-2")
            yield Line(f"attention {name}, {K} kv heads: of gradients", max(errors[1:]), "of the largest", "below 2e-2")
    arrays = [random(64 if size is FULL else 2, 12, T, 64) for _ in range(3)]
    with use_precision("bfloat16"):
        y, saved = fused_attention_forward(*arrays, masks["causal"])
        time = milliseconds(lambda: fused_attention_forward(*arrays, masks["causal"]), size.rounds)
        yield Line("attention forward, batch 64, causal", time, "ms", "0.35")
        time = milliseconds(lambda: fused_attention_backward(y, saved), size.rounds)
        yield Line("attention backward, batch 64, causal", time, "ms", "1.0 to 1.2")


def products_of_gpt2(size: Size) -> Iterator[Line]:
    """Yield whether cuBLASLt has an algorithm for the products of GPT-2, with and without what follows them."""
    products, N = kernels_of("cuda", "_products"), size.rows
    shapes = [(768, 2304), (768, 768), (768, 3072), (3072, 768)]
    shapes = shapes if size is FULL else [(16, 24)]
    for inputs, outputs in shapes:
        x, w, y = random(N, inputs), random(outputs, inputs), random(N, outputs)
        bias, hidden = random(outputs), random(N, outputs)
        gradient = cupy().zeros((outputs, inputs), np.float32)
        sums = cupy().zeros(outputs, np.float32)
        for epilogue in ("none", "bias", "gelu_bias", "dgelu"):
            what = partial(products.multiply, x, w, y, transposed=(False, True), epilogue=epilogue)
            run = partial(what, vector=bias, hidden=hidden)
            yield speed(f"product {inputs} -> {outputs}, {epilogue}", run, N * inputs * outputs, size)

        def gradients(y: Any = y, x: Any = x, g: Any = gradient, s: Any = sums) -> None:
            products.multiply(y, x, g, transposed=(True, False), epilogue="bias_gradient", vector=s, accumulate=True)

        yield speed(f"gradient of {inputs} -> {outputs}, float32 sums", gradients, N * inputs * outputs, size)
    planned = products.planner()
    missing = [] if planned is None else [p.epilogue for p, plan in planned.plans.items() if plan is None]
    yield Line("epilogues without an algorithm", ", ".join(sorted(set(missing))) or "none", "", "none")


def speed(what: str, run: Callable[[], None], work: int, size: Size) -> Line:
    return Line(what, 2 * work / milliseconds(run, size.rounds) / 1e9, "TFLOP/s", "550 to 720")


def verification(size: Size) -> Iterator[Line]:
    """Yield how many checks of the library fail on the GPU."""
    from compyute_transformer.verify.plan import carry_out, choose, everything

    filters = [] if size is FULL else ["ops.linear"]
    for method in ("device", "kernel"):
        outcome = carry_out(choose(everything(0), filters, [method]))
        for failure in outcome.failures[:20]:
            print(f"      {failure}")
        yield Line(f"checks by {method} that fail", len(outcome.failures), f"of {len(outcome.results)}", "0")


def other_models(size: Size) -> Iterator[Line]:
    """Yield the seed's model, 384 wide, at batch 64."""
    work = workload("seed", {**size.model, "batch_size": max(size.batches), "device": "cuda"})
    yield from (replace_name(line, "seed") for line in our_steps(work, size.rounds))
    with suppress(ImportError):
        yield from (replace_name(line, "seed") for line in torch_steps(work, size.rounds))


def replace_name(line: Line, name: str) -> Line:
    return line._replace(what=line.what.replace("GPT-2", name), predicted="1.3 times PyTorch compiled")


LINES: tuple[Callable[[Size], Iterator[Line]], ...] = (
    *(copies, squares, tests, steps, decoding, attentions, products_of_gpt2, other_models, verification),
)


# --- the run ---------------------------------------------------------------------------------------------------------


def installed_versions() -> str:
    found = []
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def main(arguments: list[str] | None = None) -> int:
    """Run all lines; return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=540.0, help="begin no line after this many seconds")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try this script itself")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    parser.add_argument("names", nargs="*", help="lines to run; all without")
    given = parser.parse_args(arguments)
    began = perf_counter()
    if fault := gpu_fault():
        print(f"No GPU: {fault}")
        return 1
    name = cupy().cuda.runtime.getDeviceProperties(0)["name"].decode()
    facts = {"gpu": name, "versions": installed_versions(), "date": date.today().isoformat()}
    print(f"{name}\n{facts['versions']}\n")
    path = given.out / name.lower().replace(" ", "_") / "first_run.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    failed, left_out = 0, []
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        for line in LINES:
            if given.names and line.__name__ not in given.names:
                continue
            if perf_counter() - began > given.seconds:
                left_out.append(line.__name__)
                continue
            try:
                for found in line(SMALL if given.small else FULL):
                    show(found, perf_counter() - began)
                    writer.writerow({**found._asdict(), **facts})
                    file.flush()
            except Exception as error:  # the next lines say more than none
                failed += 1
                print(f"FAIL  {line.__name__}: {type(error).__name__}: {error}", flush=True)
                traceback.print_exc(limit=-6)
    print(f"\nWritten: {path}. " + (f"No time was left for {', '.join(left_out)}." if left_out else ""))
    return failed


def show(line: Line, seconds: float) -> None:
    value = f"{line.value:,.4g}" if isinstance(line.value, float) else str(line.value)
    print(f"{seconds:5.0f} s  {line.what:52} {value:>12} {line.unit:14} predicted {line.predicted}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
