"""Attack: safetensors files whose headers lie, or are far too large."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Warden, write_header

X = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ([], "is not a dictionary"),
        (3, "is not a dictionary"),
        ({"x": 3}, "does not give dtype, shape and data_offsets"),
        ({"x": {**X, "more": 1}}, "does not give dtype, shape and data_offsets, and only these"),
        ({"x": {**X, "dtype": "F128"}}, "Unknown dtype 'F128'"),
        ({"x": {**X, "dtype": ["F32"]}}, "Unknown dtype"),
        ({"x": {**X, "shape": [3]}}, "are 12 bytes, not the 8"),
        ({"x": {**X, "shape": [-2]}}, "Impossible shape"),
        ({"x": {**X, "shape": [2.0]}}, "Impossible shape"),
        ({"x": {**X, "shape": [True, 2]}}, "Impossible shape"),
        ({"x": {**X, "shape": "2"}}, "Impossible shape"),
        ({"x": {**X, "shape": [2, *[1] * 100]}}, "Impossible shape"),
        ({"x": {**X, "shape": [2**62, 2**62]}}, "Impossible shape"),
        ({"x": {"dtype": "F32", "shape": [0, 2**59, 2**59], "data_offsets": [0, 0]}}, "Impossible shape"),
        ({"x": {**X, "data_offsets": [8, 0]}}, "not the -8"),
        ({"x": {**X, "data_offsets": [-8, 0]}}, "Impossible data_offsets"),
        ({"x": {**X, "data_offsets": [0]}}, "Impossible data_offsets"),
        ({"x": {**X, "data_offsets": [8, 16]}}, "a hole or an overlap before the tensor 'x'"),
        ({"x": X, "y": X}, "a hole or an overlap before the tensor 'y'"),
        ({"x": X, "y": {**X, "data_offsets": [4, 12]}}, "a hole or an overlap before the tensor 'y'"),
        ({"x": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}, "take 1,099,511,627,776 bytes"),
        ({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "take 4 bytes, but there are 8"),
        ({"x": {"dtype": "BOOL", "shape": [8], "data_offsets": [0, 8]}}, "neither true nor false"),
        ({"x": X, "__metadata__": {"sparse_rl": 3}}, "are not words"),
        ({"x": X, "__metadata__": {"sparse_rl": "3"}}, "lack a checksum"),
        ({"x": X, "__metadata__": {"sparse_rl": "{}"}}, "lack a checksum"),
        ({"x": X, "__metadata__": {"sparse_rl": '{"checksum": "x", "metadata": "{}"}'}}, "checksum is not that"),
        (b'{"x": NaN}', "NaN is not a number"),
        (b'{"x": 1e999}', "too large a number"),
        (b'{"x": 1, "x": 2}', "the key 'x' occurs twice"),
        (b'{"x": ' + b"9" * 5000 + b"}", "There is an error in the header"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "There is an error in the header"),
        (b"", "There is an error in the header"),
        (b" " * 2**23, "has 8,388,608 bytes, more than 4,194,304"),
        (json.dumps({str(i): X for i in range(200_000)}).encode(), "more than 4,194,304"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_header_that_lies(tmp_path: Path, warden: Warden, header: Any, message: str) -> None:
    write_header(tmp_path / "x", header, b"\xff" * 8)
    assert message in warden.refusal("tensors", tmp_path / "x")


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 7, b"\xff" * 8, b"\xff" * 64, (2**63).to_bytes(8, "little") + b"{}"]
)
def test_a_length_that_lies(tmp_path: Path, warden: Warden, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    assert "is not a safetensors file, or its end is missing" in warden.refusal("tensors", tmp_path / "x")
