"""The texts of the CUDA kernels: what they may use, how they begin, and that NVIDIA's compiler takes them."""

import re

import pytest
from cuda_helpers import TOPICS

from compyute_transformer.errors import BackendError
from compyute_transformer.gpu import _kernel
from compyute_transformer.gpu._kernel import FOLDER, blocks_for, source_of
from cuda_on_cpu import nvrtc

# Functions of CUDA, all of which a CPU has too; none of them is an approximation (__expf, __fdividef).
ALLOWED = {
    *("__shfl_xor_sync", "__ballot_sync", "__syncthreads", "__popc", "__uint_as_float"),
    *("__bfloat162float", "__float2bfloat16"),
    *("expf", "logf", "sqrtf", "erfcf", "fmaxf", "min", "max", "pow", "sqrt"),
}
WORDS = {
    "if",
    "for",
    "while",
    "switch",
    "return",
    "sizeof",
    "alignas",
    "int",
    "unsigned",
    "float",
    "Sums",
    "PER_VECTOR",
}
FLOAT64 = ("squares_of_parts", "prepare_step")  # whose sums need it; once a step
PATHS = sorted([*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh")])


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*", "", text)


def test_every_topic_has_a_text_and_a_launcher() -> None:
    assert sorted(TOPICS) == sorted(path.stem for path in FOLDER.glob("*.cu"))
    assert all((FOLDER / f"{topic}.py").exists() for topic in TOPICS)


@pytest.mark.parametrize("topic", TOPICS)
def test_only_functions_of_the_list_are_called(topic: str) -> None:
    text = without_comments(source_of(topic))
    called = set(re.findall(r"\b(\w+)\s*(?:<[\w\s,]+>)?\(", text))
    defined = set(re.findall(r"(?:void|float|Online|Words|T)\s+(\w+)\(", text))
    assert called - defined - WORDS <= ALLOWED


@pytest.mark.parametrize("topic", TOPICS)
def test_no_assembly_and_nothing_that_differs_between_devices(topic: str) -> None:
    text = without_comments(source_of(topic))
    assert not re.search(r"\basm\b|__CUDA_ARCH__|\batomic\w+|\bconst_cast\b|\bvolatile\b", text)


@pytest.mark.parametrize("topic", TOPICS)
def test_arithmetic_is_float32(topic: str) -> None:
    """A constant without an f makes a sum of float32 one of float64, which most GPUs compute 64 times as slowly."""
    text = without_comments(source_of(topic))
    for name in FLOAT64:
        text = re.sub(rf"void {name}\(.*?\n}}", "", text, flags=re.DOTALL)
    assert re.findall(r"\d\.\d+(?:e-?\d+)?(?![f\d])|\bdouble\b", text) == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_a_text_begins_with_how_it_works(path: object) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")  # type: ignore[attr-defined]
    comment = next(i for i, line in enumerate(lines) if not line.startswith("//"))
    assert comment >= 5
    assert max(map(len, lines)) <= 120


@pytest.mark.skipif(nvrtc.library() is None, reason="pip install nvidia-cuda-nvrtc nvidia-cuda-runtime")
@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
@pytest.mark.parametrize("topic", TOPICS)
def test_nvidias_compiler_takes_the_texts(topic: str, architecture: str) -> None:
    for bfloat16 in (False, True):
        assert nvrtc.compile_for(architecture, source_of(topic), bfloat16) > 1000


def test_a_grid_that_is_too_large_is_refused() -> None:
    assert blocks_for(257) == (2,)
    with pytest.raises(BackendError, match="a grid has at most 2147483647 blocks, got 2147483648"):
        blocks_for((1 << 39) - 1)


def test_the_header_of_bfloat16_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pathfinder:
        @staticmethod
        def find_nvidia_header_directory(name: str) -> None:
            return None

    monkeypatch.setattr(_kernel, "import_module", lambda name: Pathfinder)
    _kernel._headers.cache_clear()
    with pytest.raises(BackendError, match=r"need NVIDIA's header cuda_bf16.h, .*: pip install nvidia-cuda-runtime"):
        _kernel._headers()
