"""A Stable-Baselines3 archive, read as data: nothing is unpickled, nothing is executed.

An archive is a zip of ``data`` (JSON, in which whatever JSON cannot hold stands as a pickle, with a
readable description beside it) and of ``*.pth`` files (each a zip of its own, written by ``torch.save``).
The pickles of ``data`` are dropped unread. Tensors come through ``torch.load(weights_only=True)``, from
memory, after the sizes of everything have been checked. Nothing is ever written to disk.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from daft_rl.archives.hyperparameters import read_hyperparameters
from daft_rl.archives.text import read_space
from daft_rl.errors import AgentError

__all__ = ["SUPPORTED", "ArchiveContents", "check_tensor", "find_archive", "read_archive", "refusing"]

SUPPORTED: dict[str, type[BaseAlgorithm]] = {
    kind.__name__: kind for kind in (PPO, A2C, TRPO, SAC, DDPG, TD3, TQC, CrossQ, DQN, QRDQN, MaskablePPO)
}
"""DDPG stands before TD3, of which SB3 makes it a subclass."""

_MARKS = (
    ("n_delta", "ARS"),
    ("cg_max_steps", "TRPO"),
    ("clip_range", "PPO"),
    ("top_quantiles_to_drop_per_net", "TQC"),
    ("target_policy_noise", "TD3"),
    ("target_entropy", "SAC"),
    ("exploration_fraction", "DQN"),
    ("gae_lambda", "A2C"),
)
"""The first hyperparameter found tells the algorithm, whose name the archive does not hold."""

MAX_BYTES = 2 * 1024**3
"""All members together, unpacked."""
MAX_DESCRIPTION = 32 * 1024**2
"""The JSON; real ones have 10 to 100 KB, more where a last image observation was pickled into them."""
MAX_RATIO = 100
"""SB3 does not compress; weights do not compress this well either. A bomb does."""
RATIO_MATTERS = 1024**2
"""Bytes below which a high compression ratio is harmless."""
MAX_MEMBERS = 256
MAX_TENSORS = 10_000
VARIABLES = ("pytorch_variables", "tensors")
"""Loose tensors such as ``log_ent_coef``; the second name is that of SB3 before 0.9."""


@dataclass(frozen=True)
class ArchiveContents:
    """What an archive holds, as far as it can be told without unpickling."""

    path: Path
    algorithm: str | None
    """Name of SB3's class, by the hyperparameters in the description; ``None`` if they fit none."""
    hyperparameters: dict[str, Any]
    """Arguments for the constructor; empty for an algorithm that is not in :data:`SUPPORTED`."""
    unreadable: dict[str, str]
    """Hyperparameter -> why it is unknown."""
    observation_space: spaces.Space | None
    """Images channels first, as SB3 stores them; ``None`` where the description is not enough."""
    action_space: spaces.Space | None
    policy_kwargs: dict[str, Any] | None
    """As described: numbers and lists as they are, classes as text like ``"<class 'a.B'>"``; ``None``: not at all."""
    description: dict[str, Any]
    """All of the JSON, without the pickles."""
    state_dicts: dict[str, dict[str, Any]]
    """``"policy"``: finite tensors; ``"policy.optimizer"`` and the like: as ``torch.load`` gave them."""
    variables: dict[str, Tensor]
    """Loose tensors: ``log_ent_coef``."""
    sb3_version: str


@contextmanager
def refusing(what: str, advice: str = "") -> Iterator[None]:
    """Turn whatever a library raises inside into one :class:`AgentError` that starts with ``what``.

    The exceptions are not listed: zipfile, json, torch and SB3 do not promise which ones damaged or
    hostile input provokes (``zlib.error``, ``struct.error``, ``RecursionError``, ``AssertionError``...).
    """
    try:
        yield
    except AgentError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise AgentError(f"{what}: {type(error).__name__}: {reason} {advice}".rstrip()) from error


def find_archive(path: str | os.PathLike[str]) -> Path:
    """The file that ``path`` means; as in SB3, ``.zip`` may be left out.

    :raises AgentError: there is no such file
    """
    with refusing(f"'{path}' cannot be an agent's archive"):
        for candidate in (Path(path), Path(f"{os.fspath(path)}.zip")):
            if candidate.is_file():
                return candidate
    raise AgentError(f"No agent at '{path}': expected a .zip written by Stable-Baselines3's `model.save`.")


def check_tensor(name: str, tensor: Any) -> Tensor:
    """Accept a plain, finite, dense tensor that owns the memory its shape claims.

    :param name: what to call it in the message
    :raises AgentError: anything else. Expanded tensors are among it: a shape of terabytes over a storage
        of one number is valid for PyTorch, and any arithmetic on it would exhaust memory.
    """
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        raise AgentError(f"'{name}' should be a tensor, got {type(tensor).__name__}.")
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_complex() or tensor.is_quantized:
        raise AgentError(f"'{name}' should be a dense real tensor, got {tensor.dtype}, {tensor.layout}.")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise AgentError(f"'{name}' claims shape {tuple(tensor.shape)}, for which the file holds too few numbers.")
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise AgentError(f"'{name}' holds NaN or infinite values: the agent was saved after its training diverged.")
    return tensor.detach()


def _checked_members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Every member by name, once names, sizes and methods are known to be harmless."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or ":" in name:
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


def _read_description(raw: bytes, path: Path) -> dict[str, Any]:
    with refusing(f"{path}: the JSON in 'data' is damaged"):
        entries = json.loads(raw.decode("utf-8"))
    if not isinstance(entries, dict):
        raise AgentError(f"{path}: 'data' should be a JSON object, got {type(entries).__name__}.")
    return {
        key: {field: text for field, text in value.items() if field != ":serialized:"}
        if isinstance(value, dict)
        else value
        for key, value in entries.items()
    }


def _read_tensors(name: str, raw: bytes, path: Path) -> dict[str, Any]:
    """What ``torch.save`` wrote: a dictionary whose leaves are tensors and numbers."""
    advice = "If you trust whoever made the file, pass trust=True (agent.trust=true on the command line)."
    with refusing(f"{path}: '{name}' is damaged, or holds something else than tensors", advice):
        if not zipfile.is_zipfile(io.BytesIO(raw)):
            raise AgentError(f"{path}: '{name}' is damaged, or was written by a PyTorch older than 1.6. {advice}")
        with zipfile.ZipFile(io.BytesIO(raw)) as inner:
            stored = [info for info in inner.infolist() if info.compress_type == zipfile.ZIP_STORED]
            # torch.save never compresses: what unpacks to more than the file's own size is a bomb
            if len(stored) != len(inner.infolist()) or sum(info.file_size for info in stored) > len(raw):
                raise AgentError(f"{path}: '{name}' is compressed, or its parts overlap; torch.save does neither.")
        content = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise AgentError(f"{path}: '{name}' should hold a dictionary of tensors, got {type(content).__name__}.")
    if len(content) > MAX_TENSORS:
        raise AgentError(f"{path}: '{name}' holds {len(content)} entries, more than {MAX_TENSORS}.")
    return dict(content)


def _read_parameters(
    archive: zipfile.ZipFile, members: list[str], path: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """State dictionaries and loose tensors; those of the policy and the loose ones are checked."""
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
            # several names may stand for one storage; the network that is built will not share it
            if sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > MAX_BYTES:
                raise AgentError(f"{path}: the tensors of the policy have more than {MAX_BYTES} bytes.")
            parameters[name] = state
    return parameters, variables


def _guess_algorithm(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> str | None:
    name = next((name for mark, name in _MARKS if mark in description), None)
    policy = description.get("policy_class")
    if any(key.startswith("lstm_actor.") for key in state):
        return "RecurrentPPO"
    if name == "PPO" and isinstance(policy, dict) and "maskable" in str(policy.get("__module__")):
        return "MaskablePPO"
    if name == "SAC" and "policy_delay" in description:
        return "CrossQ"
    if name == "DQN" and any(key.startswith("quantile_net.") for key in state):
        return "QRDQN"
    if name == "TD3" and description.get("policy_delay") == 1 and description.get("target_noise_clip") == 0:
        return "DDPG"
    return name


def read_archive(path: str | os.PathLike[str]) -> ArchiveContents:
    """Read everything of an archive that can be read without executing any of it.

    :param path: a file that SB3's ``model.save`` wrote; ``.zip`` may be left out
    :raises AgentError: no such file; not an archive of SB3; damaged; a bomb; NaN or infinite weights
    """
    file = find_archive(path)
    with refusing(f"{file} cannot be read as an archive of Stable-Baselines3"), zipfile.ZipFile(file) as archive:
        members = _checked_members(archive, file)
        for name in ("data", "policy.pth"):
            if name not in members:
                raise AgentError(f"{file} has no '{name}': it is damaged, or no archive of Stable-Baselines3.")
        if members["data"].file_size > MAX_DESCRIPTION:
            raise AgentError(f"{file}: 'data' has {members['data'].file_size} bytes, more than {MAX_DESCRIPTION}.")
        description = _read_description(archive.read("data"), file)
        tensors = [name for name in members if name.endswith(".pth")]
        parameters, variables = _read_parameters(archive, tensors, file)
        version = archive.read("_stable_baselines3_version") if "_stable_baselines3_version" in members else b"unknown"

    algorithm = _guess_algorithm(description, parameters["policy"])
    hyperparameters, unreadable = read_hyperparameters(description, SUPPORTED.get(algorithm or ""))
    found = {key: read_space(description.get(key)) for key in ("observation_space", "action_space")}
    unreadable |= {key: reason for key, reason in found.items() if isinstance(reason, str)}
    described = description.get("policy_kwargs")
    return ArchiveContents(
        path=file,
        algorithm=algorithm,
        hyperparameters=hyperparameters,
        unreadable=unreadable,
        **{key: space if isinstance(space, spaces.Space) else None for key, space in found.items()},  # type: ignore[arg-type]
        policy_kwargs=described if isinstance(described, dict) else None,
        description=description,
        state_dicts=parameters,
        variables=variables,
        sb3_version=version[:32].decode("ascii", "replace").strip(),
    )
