"""Files that would take far more memory than they have bytes are refused before they are read."""

from __future__ import annotations

import io
import json
import pickle
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO

from daft_rl.archives import load_agent, read_multiplier, read_vecnormalize
from daft_rl.errors import AgentError
from tests.archives.helpers import make, members, save, write

MEGABYTE = 1024**2


def zip_of(names: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(names):
            archive.writestr(f"archive/data/{i}" + "x" * 200, b"")
    return buffer.getvalue()


def pickle_of_empty_dictionaries(count: int) -> bytes:
    return b"\x80\x02(" + b"}" * count + b"l."


def many_objects_in_json(content: dict[str, bytes]) -> None:
    content["data"] = b'{"a": [' + b"{}," * 9_000_000 + b"{}]}"


def many_objects_among_tensors(content: dict[str, bytes]) -> None:
    with zipfile.ZipFile(io.BytesIO(content["policy.pth"])) as inner:
        parts = {name: inner.read(name) for name in inner.namelist()}
    name = next(name for name in parts if name.endswith("data.pkl"))
    parts[name] = pickle_of_empty_dictionaries(28 * MEGABYTE)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key, raw in parts.items():
            archive.writestr(key, raw)
    content["policy.pth"] = buffer.getvalue()


def many_tensors(content: dict[str, bytes]) -> None:
    content["policy.pth"] = zip_of(20_000)


def old_tensors(content: dict[str, bytes], change: Callable[[bytes], bytes]) -> None:
    """A file of PyTorch before 1.6 with one tensor of four numbers, changed."""
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(4)}, buffer, _use_new_zipfile_serialization=False)
    content["policy.pth"] = change(buffer.getvalue())


def many_objects_in_an_old_pickle(content: dict[str, bytes]) -> None:
    old_tensors(content, lambda raw: raw.replace(b"}q\x00X\x01", b"}" * 28 * MEGABYTE + b"}q\x00X\x01"))


def a_large_claim_in_an_old_pickle(content: dict[str, bytes]) -> None:
    """Four numbers are there; the file names a storage of 2**31 - 1, which nothing fills."""
    size, count = b"Ntq\x07Q", b"K\x04"
    old_tensors(content, lambda raw: raw.replace(count + size, b"J\xff\xff\xff\x7f" + size))


def a_large_shape_in_an_old_pickle(content: dict[str, bytes]) -> None:
    """The storage has four numbers, the tensor 2**31 - 1; and no numbers are said to follow."""

    def change(raw: bytes) -> bytes:
        raw = raw.replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85")
        return raw[: raw.rindex(b"\x80\x02]q")] + pickle.dumps([], 2)

    old_tensors(content, change)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (many_objects_in_an_old_pickle, "the pickle in 'policy.pth' has more than"),
        (a_large_claim_in_an_old_pickle, r"'policy.pth' claims tensors of 8589934588 bytes"),
        (a_large_shape_in_an_old_pickle, r"'policy.pth' claims tensors of 8589934588 bytes, more than the 16"),
        (many_objects_in_json, "'data' has 18000003 items"),
        (many_objects_among_tensors, "the pickle in 'policy.pth' has more than"),
        (many_tensors, r"table of contents has \d+ bytes \(20000 members\)"),
    ],
)
def test_an_archive_that_unfolds_in_memory_is_refused(
    spoil: Callable[[dict[str, bytes]], None], message: str, tmp_path: Path
) -> None:
    path = save(make(PPO), tmp_path)
    content = members(path)
    spoil(content)
    write(path, content)
    del content
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AgentError, match=message):
        load_agent(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100 * 1024, "kilobytes"


def test_an_archive_of_very_many_members_is_refused(tmp_path: Path) -> None:
    (tmp_path / "agent.zip").write_bytes(zip_of(5_000))
    with pytest.raises(AgentError, match=r"table of contents has \d+ bytes \(5000 members\)"):
        load_agent(tmp_path / "agent.zip")


def test_statistics_that_unfold_in_memory_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vecnormalize.pkl").write_bytes(pickle_of_empty_dictionaries(28 * MEGABYTE))
    with pytest.raises(AgentError, match="more than 100000 objects"):
        read_vecnormalize(tmp_path / "vecnormalize.pkl")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[]", b"3", b'{"multiplier": null}', b'{"multiplier": NaN}', b'{"multiplier": -1}', b"\xff\xfe",
        b'{"multiplier": "2"}', b'{"multiplier": true}', b'{"multiplier": 1e999}', b"[" * 50_000, b" " * 100_000,
        pickle.dumps(1), b'{"multiplier": 1%s}' % (b"0" * 400),
    ],
)  # fmt: skip
def test_a_damaged_constraint_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "agent_constraint.json").write_bytes(content)
    with pytest.raises(AgentError, match=r"agent_constraint\.json (is damaged|has 100000 bytes)"):
        read_multiplier(tmp_path / "agent.zip")


@pytest.mark.parametrize("value", [0, 1.5])
def test_a_sound_constraint_is_read(value: Any, tmp_path: Path) -> None:
    (tmp_path / "constraint.json").write_text(json.dumps({"multiplier": value}))
    assert read_multiplier(tmp_path / "agent.zip") == value
