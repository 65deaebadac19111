"""A Stable-Baselines3 archive, read as data: nothing is unpickled, nothing is executed.

An archive is a zip of ``data`` and of ``*.pth`` files. ``data`` is JSON with the attributes of the algorithm object;
whatever JSON cannot hold is a pickle there, beside readable text of its fields. Each ``*.pth`` file is a zip of its
own, written by ``torch.save``. The pickles of ``data`` are dropped unread. Tensors come through
``torch.load(weights_only=True)``, from memory, after the sizes of everything have been checked. Nothing is ever
written to disk.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from daft_rl.agents.algorithms import ALGORITHMS, Algorithm, recognize_algorithm
from daft_rl.archives.checks import TRUST, check_directory, check_tensor, wrap_errors
from daft_rl.archives.hyperparameters import read_hyperparameters
from daft_rl.archives.text import read_space
from daft_rl.archives.train_freq import read_train_freq
from daft_rl.errors import AgentError

__all__ = ["ArchiveContents", "find_archive", "read_archive"]

MAX_BYTES = 2 * 1024**3
"""All members together, unpacked."""
MAX_JSON_BYTES = 32 * 1024**2
"""Usual are 10 to 100 KB; a pickled image observation takes more."""
MAX_JSON_ITEMS = 500_000
"""Objects, lists and entries of lists. Each takes 70 bytes of memory or more, and can be two characters of JSON."""
MAX_DIRECTORY = 1024**2
"""Bytes of the table of contents of an archive."""
MAX_TENSOR_DIRECTORY = 4 * 1024**2
"""The same for the zip of tensors inside."""
MAX_TENSOR_PICKLE = 4 * 1024**2
"""Bytes of the pickle that names the tensors; one byte of it can make an object of 64."""
MAX_RATIO = 100
"""SB3 does not compress, and weights do not compress this well. A bomb does."""
RATIO_MATTERS = 1024**2
"""Bytes below which a high compression ratio is harmless."""
MAX_MEMBERS = 256
MAX_TENSORS = 10_000
VARIABLES = ("pytorch_variables", "tensors")
"""Loose tensors such as ``log_ent_coef``; the second name is that of SB3 before 0.9."""


@dataclass(frozen=True)
class ArchiveContents:
    """What an archive holds, as far as it can be read without unpickling."""

    path: Path
    algorithm: str | None
    """Name of SB3's class, recognized by the attributes; ``None`` if they fit none."""
    hyperparameters: dict[str, Any]
    """Arguments for the constructor; empty for an algorithm that is not supported."""
    unreadable: dict[str, str]
    """Hyperparameter -> why it could not be read."""
    observation_space: spaces.Space[Any] | None
    """Images channels first, as SB3 stores them; ``None`` if it could not be read."""
    action_space: spaces.Space[Any] | None
    policy_kwargs: dict[str, Any] | None
    """Numbers and lists as they are, classes as text like ``"<class 'a.B'>"``; ``None`` if there are none."""
    attributes: dict[str, Any]
    """All of the JSON, without the pickles: the attributes of the algorithm object."""
    state_dicts: dict[str, dict[str, Any]]
    """``"policy"``: finite tensors; ``"policy.optimizer"`` and the like: as ``torch.load`` gave them."""
    variables: dict[str, Tensor]
    """Loose tensors: ``log_ent_coef``."""
    sb3_version: str


def find_archive(path: str | os.PathLike[str]) -> Path:
    """The file at ``path``; as in SB3, ``.zip`` may be left out.

    :raises AgentError: there is no such file
    """
    with wrap_errors(f"'{path}' cannot be an agent's archive"):
        for candidate in (Path(path), Path(f"{os.fspath(path)}.zip")):
            if candidate.is_file():
                return candidate
    raise AgentError(
        f"No agent at '{path}': expected a .zip written by Stable-Baselines3's `model.save`.", arguments=("path",)
    )


def _points_outside(name: str) -> bool:
    """Whether a member would be unpacked outside of the archive's folder."""
    return name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or ":" in name


def _checked_members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Every member by name, after a check that names, sizes and compression are harmless."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename
        if _points_outside(name):
            raise AgentError(f"{path}: member '{name}' points outside of the archive. SB3 writes no such file.")
        if name in members:
            raise AgentError(f"{path}: two members are called '{name}'. SB3 writes no such file.")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise AgentError(f"{path}: member '{name}' is encrypted or compressed in a way SB3 does not use.")
        if info.file_size > RATIO_MATTERS and info.file_size > MAX_RATIO * info.compress_size:
            raise AgentError(
                f"{path}: member '{name}' would unpack from {info.compress_size} to {info.file_size} bytes, "
                f"more than {MAX_RATIO} times its size: a zip bomb."
            )
        members[name] = info
    total = sum(info.file_size for info in members.values())
    if total > MAX_BYTES or len(members) > MAX_MEMBERS:
        raise AgentError(
            f"{path}: {len(members)} members of {total} bytes unpacked; "
            f"at most {MAX_MEMBERS} members of {MAX_BYTES} bytes are read."
        )
    return members


def _read_attributes(raw: bytes, path: Path) -> dict[str, Any]:
    items = sum(raw.count(sign) for sign in (b"{", b"[", b","))
    if items > MAX_JSON_ITEMS:
        raise AgentError(f"{path}: 'data' has {items} items, more than {MAX_JSON_ITEMS}. SB3 writes some thousand.")
    with wrap_errors(f"{path}: the JSON in 'data' is damaged"):
        entries = json.loads(raw.decode("utf-8"))
    if not isinstance(entries, dict):
        raise AgentError(f"{path}: 'data' should be a JSON object, got {type(entries).__name__}.")
    if "train_freq" in entries:
        entries["train_freq"] = read_train_freq(entries["train_freq"])
    return {
        key: {field: text for field, text in value.items() if field != ":serialized:"}
        if isinstance(value, dict)
        else value
        for key, value in entries.items()
    }


def _read_tensors(name: str, raw: bytes, path: Path) -> dict[str, Any]:
    """The dictionary that ``torch.save`` wrote; its leaves are tensors and numbers."""
    advice = f"Download or save the file again, or, {TRUST}."
    damaged = f"{path}: '{name}' is damaged, or"
    with wrap_errors(f"{damaged} holds something other than tensors", advice, arguments=("trust",)):
        if not zipfile.is_zipfile(io.BytesIO(raw)):
            raise AgentError(f"{damaged} was written by a PyTorch older than 1.6. {advice}", arguments=("trust",))
        check_directory(io.BytesIO(raw), MAX_TENSOR_DIRECTORY)
        with zipfile.ZipFile(io.BytesIO(raw)) as inner:
            stored = [info for info in inner.infolist() if info.compress_type == zipfile.ZIP_STORED]
            # torch.save never compresses: a file that unpacks to more than its own size is a bomb
            if len(stored) != len(inner.infolist()) or sum(info.file_size for info in stored) > len(raw):
                raise AgentError(f"{path}: '{name}' is compressed, or its parts overlap; torch.save does neither.")
            if any(info.filename.endswith("data.pkl") and info.file_size > MAX_TENSOR_PICKLE for info in stored):
                raise AgentError(f"{path}: the pickle in '{name}' has more than {MAX_TENSOR_PICKLE} bytes.")
        content = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise AgentError(f"{path}: '{name}' should hold a dictionary of tensors, got {type(content).__name__}.")
    if len(content) > MAX_TENSORS:
        raise AgentError(f"{path}: '{name}' holds {len(content)} entries, more than {MAX_TENSORS}.")
    return dict(content)


def _read_parameters(
    archive: zipfile.ZipFile, members: list[str], path: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """State dictionaries and loose tensors. The policy's tensors and the loose ones are checked."""
    parameters: dict[str, dict[str, Any]] = {}
    variables: dict[str, Tensor] = {}
    for member in members:
        name = member.removesuffix(".pth")
        content = _read_tensors(member, archive.read(member), path)
        if name in VARIABLES:
            loose = {key: value for key, value in content.items() if value is not None}
            variables |= {key: check_tensor(f"{path}: {key}", value) for key, value in loose.items()}
            continue
        parameters[name] = content
        if name == "policy":
            state = {key: check_tensor(f"{path}: {key}", value) for key, value in content.items()}
            # several names may share one storage in the file; in the network each has its own
            if sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > MAX_BYTES:
                raise AgentError(f"{path}: the tensors of the policy have more than {MAX_BYTES} bytes.")
            parameters[name] = state
    return parameters, variables


def _read_members(file: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, Tensor], bytes]:
    """The attributes in ``data``, state dictionaries, loose tensors, and the version of SB3 that wrote them."""
    what = f"{file} cannot be read as an archive of Stable-Baselines3"
    with wrap_errors(what), file.open("rb") as opened:
        check_directory(opened, MAX_DIRECTORY)
    with wrap_errors(what), zipfile.ZipFile(file) as archive:
        members = _checked_members(archive, file)
        for name in ("data", "policy.pth"):
            if name not in members:
                raise AgentError(f"{file} has no '{name}': it is damaged, or no archive of Stable-Baselines3.")
        if members["data"].file_size > MAX_JSON_BYTES:
            raise AgentError(f"{file}: 'data' has {members['data'].file_size} bytes, more than {MAX_JSON_BYTES}.")
        attributes = _read_attributes(archive.read("data"), file)
        tensors = [name for name in members if name.endswith(".pth")]
        parameters, variables = _read_parameters(archive, tensors, file)
        version = archive.read("_stable_baselines3_version") if "_stable_baselines3_version" in members else b"unknown"
    return attributes, parameters, variables, version


def read_archive(path: str | os.PathLike[str], algorithm: Algorithm | None = None) -> ArchiveContents:
    """Read everything of an archive that can be read without executing any of it.

    :param path: a file that SB3's ``model.save`` wrote; ``.zip`` may be left out
    :param algorithm: whose hyperparameters to read; ``None`` reads those of the algorithm that is recognized
    :raises AgentError: no such file; not an archive of SB3; damaged; a bomb; NaN or infinite weights
    """
    file = find_archive(path)
    attributes, parameters, variables, version = _read_members(file)
    recognized = recognize_algorithm(attributes, parameters["policy"])
    entry = algorithm or ALGORITHMS.get(recognized or "")
    hyperparameters, unreadable = read_hyperparameters(attributes, entry.cls if entry else None)
    found = {key: read_space(attributes.get(key)) for key in ("observation_space", "action_space")}
    unreadable |= {key: reason for key, reason in found.items() if isinstance(reason, str)}
    policy_kwargs = attributes.get("policy_kwargs")
    return ArchiveContents(
        path=file,
        algorithm=recognized,
        hyperparameters=hyperparameters,
        unreadable=unreadable,
        **{key: space if isinstance(space, spaces.Space) else None for key, space in found.items()},  # type: ignore[arg-type]
        policy_kwargs=policy_kwargs if isinstance(policy_kwargs, dict) else None,
        attributes=attributes,
        state_dicts=parameters,
        variables=variables,
        sb3_version=version[:32].decode("ascii", "replace").strip(),
    )
