"""safetensors files: the values of every dtype, shards, and headers that a stranger wrote."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from compyute_transformer.errors import DataError
from compyute_transformer.exchange import read_tensors, write_tensors

RNG = np.random.default_rng(0)
ARRAYS = {
    "matrix": RNG.normal(size=(3, 5)).astype(np.float32),
    "vector": RNG.normal(size=7).astype(np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "number": np.array(2.5, np.float32),
}


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_what_the_library_of_the_format_wrote_is_read(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        dtype: RNG.integers(0, 2, (2, 3)).astype(dtype)
        for dtype in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
    }
    safetensors.numpy.save_file(arrays, tmp_path / "file.safetensors", {"format": "pt"})
    tensors = read_tensors(tmp_path / "file.safetensors")
    assert tensors.metadata == {"format": "pt"}
    assert set(tensors) == set(arrays)
    for name, array in arrays.items():
        assert np.array_equal(tensors[name], array)
        assert tensors[name].dtype == array.dtype
        assert tensors.shape(name) == (2, 3)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_what_is_written_the_library_of_the_format_reads(tmp_path: Path, dtype: str) -> None:
    write_tensors(tmp_path, ARRAYS, dtype)
    loaded = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    for name, array in ARRAYS.items():
        assert loaded[name].dtype == dtype
        assert np.array_equal(loaded[name], array.astype(dtype))


def test_bfloat16_is_rounded_to_the_nearest_and_of_two_to_the_even_one(tmp_path: Path) -> None:
    given = np.array([1.0, 1.00390625, 1.01171875, 1.004, -1.004, np.inf, np.nan, 0.0], np.float32)
    write_tensors(tmp_path, {"x": given}, "bfloat16")
    read = read_tensors(tmp_path)
    assert read.dtype("x") == "BF16"
    expected = np.array([1.0, 1.0, 1.015625, 1.0078125, -1.0078125, np.inf, np.nan, 0.0], np.float32)
    assert read["x"].dtype == np.float32
    assert np.array_equal(read["x"], expected, equal_nan=True)
    write_tensors(tmp_path, {"x": read["x"]}, "bfloat16")
    assert np.array_equal(read_tensors(tmp_path)["x"], read["x"], equal_nan=True)


def test_bfloat16_is_that_of_torch(tmp_path: Path) -> None:
    import torch

    x = RNG.normal(size=4096).astype(np.float32) * np.exp2(RNG.integers(-90, 90, 4096)).astype(np.float32)
    write_tensors(tmp_path, {"x": x}, "bfloat16")
    assert np.array_equal(read_tensors(tmp_path)["x"], torch.from_numpy(x).bfloat16().float().numpy())


def test_shards_are_written_with_an_index_and_read_back(tmp_path: Path) -> None:
    write_tensors(tmp_path, ARRAYS, shard_bytes=64)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / names[2]).read_text())
    assert index["metadata"]["total_size"] == 4 * (15 + 7 + 1)
    tensors = read_tensors(tmp_path)
    assert len(tensors) == 4
    for name, array in ARRAYS.items():
        assert np.array_equal(tensors[name], array)


def test_the_files_of_an_earlier_model_are_not_read_again(tmp_path: Path) -> None:
    """Whole, in two shards, in three, and whole again: what was written last is read, and nothing else is left."""
    (tmp_path / "model.gguf").write_text("of somebody else")
    for number, (shard_bytes, files) in enumerate(((10**9, 1), (64, 3), (28, 4), (10**9, 1))):
        later = {name: array + number for name, array in ARRAYS.items()}
        write_tensors(tmp_path, later, shard_bytes=shard_bytes)
        assert len(list(tmp_path.iterdir())) == files + 1
        tensors = read_tensors(tmp_path)
        assert all(np.array_equal(tensors[name], array) for name, array in later.items())
    write_tensors(tmp_path, ARRAYS, whole="adapter_model.safetensors")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_tensor_is_mapped_and_what_is_written_to_it_leaves_the_file(tmp_path: Path) -> None:
    write_tensors(tmp_path, ARRAYS)
    array = read_tensors(tmp_path)["matrix"]
    assert isinstance(array, np.memmap)
    before = float(array[0, 0])
    array[0, 0] = before + 1.0
    assert float(read_tensors(tmp_path)["matrix"][0, 0]) == before


BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "too few for a header"),
    "seven bytes": (b"\0" * 7, "too few for a header"),
    "a header longer than the file": (raw({}, length=999), "too few for a header of 999"),
    "a header of 2^63 bytes": (raw({}, length=1 << 63), "too few for a header"),
    "no JSON": (raw(b"{"), "does not"),
    "no UTF-8": (raw(b"\xff\xfe"), "does not"),
    "no object": (raw([1]), "no JSON object"),
    "a name twice": (raw(b'{"a": 1, "a": 2}'), "repeated"),
    "NaN": (raw(b'{"a": NaN}'), "NaN"),
    "metadata that are no texts": (raw({"__metadata__": {"a": 1}}), "texts by name"),
    "an entry that is a list": (raw({"a": []}), "no dtype, shape and data_offsets"),
    "a field too many": (raw({"a": entry([1], 0, 4) | {"more": 1}}, b"1234"), "or more than these"),
    "an unknown dtype": (raw({"a": entry([1], 0, 1, "F8_E4M3")}, b"1"), "'F8_E4M3'"),
    "a dtype that is a list": (raw({"a": entry([1], 0, 1) | {"dtype": []}}, b"1"), "dtype"),
    "a negative size": (raw({"a": entry([-1], 0, 4)}, b"1234"), "list of at most"),
    "a size that is true": (raw({"a": entry([True], 0, 4)}, b"1234"), "list of at most"),
    "a size of 2^70": (raw({"a": entry([1 << 70], 0, 4)}, b"1234"), "list of at most"),
    "2^60 elements": (raw({"a": entry([1 << 30, 1 << 30], 0, 4)}, b"1234"), "asks for another number"),
    "17 axes": (raw({"a": entry([1] * 17, 0, 4)}, b"1234"), "list of at most 16"),
    "three offsets": (raw({"a": entry([1], 0, 4) | {"data_offsets": [0, 4, 8]}}, b"1234"), "two numbers"),
    "offsets backwards": (raw({"a": entry([1], 4, 0)}, b"1234"), "asks for another number"),
    "an end past the file": (raw({"a": entry([2], 0, 8)}, b"1234"), "the file holds 4"),
    "bytes that nobody names": (raw({"a": entry([1], 0, 4)}, b"12345678"), "have 4 bytes"),
    "an overlap": (raw({"a": entry([1], 0, 4), "b": entry([1], 2, 6)}, b"123456"), "a gap or an overlap"),
    "a gap": (raw({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"x" * 12), "a gap or an overlap"),
    "the same bytes twice": (raw({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"1234"), "a gap or an overlap"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_header_is_refused_in_words(name: str, tmp_path: Path) -> None:
    data, words = BAD[name]
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(DataError, match=f"^read_tensors: .*{words}"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    "shard", ["../other.safetensors", "/etc/passwd", "sub/file", "..", "", "a\\b", "C:file", "nul\0"], ids=repr
)
def test_a_shard_outside_the_folder_is_refused(shard: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(DataError, match="a shard is a file in the folder of its index"):
        read_tensors(tmp_path)


def test_an_index_that_does_not_fit_its_shards_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path, ARRAYS, shard_bytes=64)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    for change, words in (
        ({"vector": "model-00001-of-00002.safetensors"}, "the index says"),
        ({"matrix": "model-00002-of-00002.safetensors"}, "have no matrix"),
        ({"more": "model-00001-of-00002.safetensors"}, "have no more"),
        ({"more": "model-00003-of-00003.safetensors"}, "model-00003-of-00003.safetensors is missing"),
        ({"more": 3}, "no weight_map of file names"),
    ):
        path.write_text(json.dumps({"weight_map": index["weight_map"] | change}))
        with pytest.raises(DataError, match=words):
            read_tensors(tmp_path)


def test_a_folder_without_tensors_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model\.safetensors is missing\. .*other format"):
        read_tensors(tmp_path)


def test_mutated_files_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    write_tensors(tmp_path, ARRAYS)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            kind, at = rng.integers(4), int(rng.integers(0, 8 + length))
            if kind == 0:
                data[at] = int(rng.integers(256))
            elif kind == 1:
                del data[at : at + int(rng.integers(1, 9))]
            elif kind == 2:
                data[at:at] = bytes(rng.integers(0, 256, int(rng.integers(1, 9)), dtype=np.uint8))
            else:
                data[at] = rng.choice(list(b'0123456789-[]{},:"'))
        path.write_bytes(data)
        try:
            for array in read_tensors(path).values():
                assert array.nbytes <= len(whole)
        except DataError:
            refused += 1
    assert 500 < refused < 1000


def test_unknown_dtypes_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dtype is one of float64, float32, float16, bfloat16, got 'int8'"):
        write_tensors(tmp_path, ARRAYS, "int8")
    assert not os.listdir(tmp_path)
