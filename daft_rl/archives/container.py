"""A Stable-Baselines3 archive, read as data: nothing is unpickled, nothing is executed.

An archive is a zip of ``data`` and of ``*.pth`` files. ``data`` is JSON with the attributes of the algorithm object;
whatever JSON cannot hold is a pickle there, beside readable text of its fields. Each ``*.pth`` file was written by
``torch.save``. The pickles of ``data`` are dropped unread. Tensors come from memory (:mod:`daft_rl.archives.tensors`).
Nothing is ever written to disk.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium import spaces
from torch import Tensor

from daft_rl.agents.algorithms import ALGORITHMS, Algorithm, recognize_algorithm
from daft_rl.archives.checks import check_directory, check_tensor, wrap_errors
from daft_rl.archives.hyperparameters import read_hyperparameters
from daft_rl.archives.schedules import SCHEDULES, read_schedule
from daft_rl.archives.tensors import read_tensors
from daft_rl.archives.text import read_space
from daft_rl.archives.train_freq import read_train_freq
from daft_rl.errors import AgentError

__all__ = ["ArchiveContents", "find_archive", "read_archive", "read_attributes", "read_pickles", "refuse_jax"]

SHIPPED = Path(__file__).resolve().parent.parent / "agents" / "pretrained"
MAX_BYTES = 2 * 1024**3
"""All members together, unpacked."""
MAX_JSON_BYTES = 32 * 1024**2
"""Usual are 10 to 100 KB; a pickled image observation takes more."""
MAX_JSON_ITEMS = 500_000
"""Objects, lists and entries of lists. Each takes 70 bytes of memory or more, and can be two characters of JSON."""
MAX_DIRECTORY = 1024**2
"""Bytes of the table of contents of an archive."""
MAX_RATIO = 100
"""SB3 does not compress, and weights do not compress this well. A bomb does."""
RATIO_MATTERS = 1024**2
"""Bytes below which a high compression ratio is harmless."""
MAX_MEMBERS = 256
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
    """The file at ``path``, or the shipped source of this name. As in SB3, ``.zip`` may be left out.

    :raises AgentError: there is no such file
    """
    with wrap_errors(f"'{path}' cannot be an agent's archive"):
        for candidate in (Path(path), Path(f"{os.fspath(path)}.zip"), SHIPPED / os.fspath(path) / "agent.zip"):
            if candidate.is_file():
                return candidate
    raise AgentError(
        f"No agent at '{path}': expected a .zip written by Stable-Baselines3's `model.save`, or the name of a "
        "shipped source.",
        arguments=("path",),
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


def _read_entries(raw: bytes, path: Path) -> dict[str, Any]:
    items = sum(raw.count(sign) for sign in (b"{", b"[", b","))
    if items > MAX_JSON_ITEMS:
        raise AgentError(f"{path}: 'data' has {items} items, more than {MAX_JSON_ITEMS}. SB3 writes some thousand.")
    with wrap_errors(f"{path}: the JSON in 'data' is damaged"):
        entries = json.loads(raw.decode("utf-8"))
    if not isinstance(entries, dict):
        raise AgentError(f"{path}: 'data' should be a JSON object, got {type(entries).__name__}.")
    return entries


def _read_attributes(raw: bytes, path: Path) -> dict[str, Any]:
    entries = _read_entries(raw, path)
    if "train_freq" in entries:
        entries["train_freq"] = read_train_freq(entries["train_freq"], entries.get("n_episodes_per_rollout"))
    entries |= {name: read_schedule(entries[name]) for name in SCHEDULES if name in entries}
    return {
        key: {field: text for field, text in value.items() if field != ":serialized:"}
        if isinstance(value, dict)
        else value
        for key, value in entries.items()
    }


def _read_parameters(
    archive: zipfile.ZipFile, members: list[str], path: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """State dictionaries and loose tensors. The policy's tensors and the loose ones are checked."""
    parameters: dict[str, dict[str, Any]] = {}
    variables: dict[str, Tensor] = {}
    for member in members:
        name = member.removesuffix(".pth")
        content = read_tensors(member, archive.read(member), path)
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


@contextmanager
def _opened(file: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """The zip, and its members by name, after a check of both."""
    what = f"{file} cannot be read as an archive of Stable-Baselines3"
    with wrap_errors(what), file.open("rb") as opened:
        check_directory(opened, MAX_DIRECTORY)
    with wrap_errors(what), zipfile.ZipFile(file) as archive:
        yield archive, _checked_members(archive, file)


def read_attributes(file: Path) -> dict[str, Any]:
    """The attributes of the algorithm object, without the pickles among them.

    :raises AgentError: not an archive of SB3, or a damaged one
    """
    with _opened(file) as (archive, members):
        return _attributes_in(archive, members, file)


def read_pickles(file: Path, names: Iterable[str]) -> dict[str, str]:
    """The pickles of some attributes, in base64, as far as they are there.

    :raises AgentError: as :func:`read_attributes`
    """
    with _opened(file) as (archive, members):
        entries = _read_entries(_data_in(archive, members, file), file)
    given = {name: entries.get(name) for name in names}
    found = {name: value.get(":serialized:") for name, value in given.items() if isinstance(value, dict)}
    return {name: text for name, text in found.items() if isinstance(text, str)}


def _attributes_in(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], file: Path) -> dict[str, Any]:
    return _read_attributes(_data_in(archive, members, file), file)


def _data_in(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], file: Path) -> bytes:
    if "data" not in members:
        raise _no_agent(file, members)
    if members["data"].file_size > MAX_JSON_BYTES:
        raise AgentError(f"{file}: 'data' has {members['data'].file_size} bytes, more than {MAX_JSON_BYTES}.")
    return archive.read("data")


def _no_agent(file: Path, members: Iterable[str]) -> AgentError:
    """What a zip without ``data`` may be instead."""
    if any(name.endswith("/data.pkl") for name in members):
        return AgentError(
            f"{file} was written by PyTorch: it may be a policy alone (`policy.save`). If you trust whoever made it, "
            "read it with the class of the policy (from stable_baselines3.common.policies import ActorCriticPolicy; "
            "policy = ActorCriticPolicy.load(...)), and put it into an algorithm: "
            "daft_rl.load_agent(policy, env=env, algo='PPO')."
        )
    return AgentError(f"{file} has no 'data': it is damaged, or no archive of Stable-Baselines3.")


def refuse_jax(attributes: Mapping[str, Any], file: Path) -> None:
    """Say what to do with an agent of sbx.

    :raises AgentError: the archive is of sbx, which pickles its networks
    """
    policy = attributes.get("policy_class")
    if isinstance(policy, dict) and str(policy.get("__module__")).startswith("sbx."):
        raise AgentError(
            f"{file} is an agent of sbx: its networks are JAX arrays in a pickle, and daft_rl learns with PyTorch. "
            "Load it with sbx and copy its weights into the same algorithm of Stable-Baselines3 "
            "(docs/policies.md, Agents of sbx), or train with Stable-Baselines3."
        )


def _read_members(file: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, Tensor], bytes]:
    """The attributes in ``data``, state dictionaries, loose tensors, and the version of SB3 that wrote them."""
    with _opened(file) as (archive, members):
        attributes = _attributes_in(archive, members, file)
        refuse_jax(attributes, file)
        if "policy.pth" not in members:
            raise AgentError(f"{file} has no 'policy.pth': it is damaged, or no archive of Stable-Baselines3.")
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
