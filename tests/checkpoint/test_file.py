"""The file format of checkpoints: exact, atomic, and harmless whatever the file holds."""

from __future__ import annotations

import json
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from daft_rl.checkpoint.file import read_state, write_state
from daft_rl.errors import CheckpointError

STATE: dict[str, Any] = {
    "plain": [None, True, 3, 2**127, 0.1, -float("inf"), "text"],
    "arrays": {
        0: np.arange(6.0).reshape(2, 3),
        "bool": np.array([True]),
        "none": np.zeros((0, 3)),
        "zero": np.array(5),
    },
    "tensor": torch.arange(4, dtype=torch.float16),
    "scalars": [np.float32(0.1), np.float64(0.1), np.int32(3), np.bool_(True)],
}


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_state(tmp_path / "state.zip", STATE)
    assert_same(read_state(tmp_path / "state.zip"), STATE)
    assert os.listdir(tmp_path) == ["state.zip"]  # noqa: PTH208


def test_what_is_no_data_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "state.zip"
    write_state(path, STATE)
    before = path.read_bytes()
    for wrong in (object(), {"key": {1, 2}}, np.array([object()]), print):
        with pytest.raises(CheckpointError, match="A checkpoint holds numbers"):
            write_state(path, wrong)
    with pytest.raises(CheckpointError, match="no tensors of torch"):  # NumPy has no such numbers
        write_state(path, torch.zeros(2, dtype=torch.bfloat16))
    with pytest.raises(CheckpointError, match="bytes of JSON"):  # what could not be read is not written
        write_state(path, ["x" * 1000] * 10_000)
    assert path.read_bytes() == before


@pytest.mark.parametrize("seed", range(200))
def test_a_damaged_file_is_recognized(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "state.zip"
    write_state(path, STATE)
    raw, draw = bytearray(path.read_bytes()), random.Random(seed)
    if seed % 2:
        del raw[draw.randrange(len(raw)) :]
    else:
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    path.write_bytes(raw)
    try:
        found = read_state(path)
    except CheckpointError:
        return
    assert_same(found, STATE)  # a bit that nothing depends on, such as a date


def crafted(path: Path, state: Any, content: bytes = b"\0" * 64, **zipped: Any) -> Path:
    with zipfile.ZipFile(path, "w", **zipped) as archive:
        archive.writestr("state.json", state if isinstance(state, str) else json.dumps(state))
        archive.writestr("arrays", content)
    return path


@pytest.mark.parametrize(
    "state",
    [
        pytest.param({"array": ["<f8", [10**12], 0]}, id="an array larger than the file"),
        pytest.param({"array": ["<f8", [-1], 0]}, id="a negative size"),
        pytest.param({"array": ["<f8", [8], -8]}, id="a negative place"),
        pytest.param({"array": ["<f8", [2**62, 2**62], 0]}, id="sizes that overflow"),
        pytest.param({"array": ["|O", [2], 0]}, id="an array of objects"),
        pytest.param({"array": ["<M8[s]", [2], 0]}, id="an array of dates"),
        pytest.param({"array": ["<f8", [1] * 40, 0]}, id="forty dimensions"),
        pytest.param({"pickle": "cos"}, id="an unknown tag"),
        pytest.param({"map": [], "array": []}, id="two tags"),
        pytest.param({"map": [[{"map": []}, 1]]}, id="a dictionary as a key"),
        pytest.param("[" * 100_000, id="a hundred thousand brackets"),
        pytest.param("{", id="no JSON"),
    ],
)
def test_a_crafted_file_is_refused(state: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is damaged"):
        read_state(crafted(tmp_path / "state.zip", state))


def test_a_compressed_file_is_refused(tmp_path: Path) -> None:
    """It could be a bomb."""
    path = crafted(tmp_path / "state.zip", [], b"\0" * 10**6, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_state(path)


def test_a_file_of_too_much_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="bytes of JSON"):
        read_state(crafted(tmp_path / "state.zip", [{}] * 3_000_000))
