"""The table of wrong invocations in ``benchmarks/faults``, and the files that they name."""

from __future__ import annotations

import gzip
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from daft_rl.archives import find_agent

__all__ = ["Invocation", "groups_composed_once", "read_table", "write_files"]

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "benchmarks" / "faults" / "invocations.txt"

STRANGER = """# @package _global_
method: {name: stranger}
hydra: {callbacks: {evil: {_target_: joblib.load, filename: evil.pkl}}}
"""


@dataclass(frozen=True)
class Invocation:
    """One wrong command line."""

    line: str
    program: str
    arguments: list[str]
    message: str
    """What the message must hold."""

    def with_files(self, folder: Path) -> list[str]:
        """The arguments, with the paths of the files that :func:`write_files` wrote."""
        places = {name: str(folder / name) for name in ("FILE", "CONFIGS", "REPORT")}
        places["AGENT"] = str(find_agent("Ant", "ppo"))
        arguments = []
        for argument in self.arguments:
            for name, place in places.items():
                argument = argument.replace(name, place)
            arguments.append(argument)
        return arguments


def read_table() -> list[Invocation]:
    """Every invocation of the table."""
    found = []
    for line in TABLE.read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            command, message = line.rsplit(" => ", 1)
            program, *arguments = shlex.split(command)
            found.append(Invocation(command, program, arguments, message))
    return found


def write_files(folder: Path) -> None:
    """Write what the invocations name: a file, configurations of a stranger, broken reports."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "FILE").write_text("no data\n")
    method = folder / "CONFIGS" / "method" / "stranger.yaml"
    method.parent.mkdir(parents=True)
    method.write_text(STRANGER)
    report = folder / "REPORT"
    good = _some_lines(ROOT / "benchmarks" / "results" / "mujoco.jsonl.gz", 40)
    broken: dict[str, Any] = {
        "cell/results.json": b"{}",
        "cell/cell.json": b'{"status": ',
        "results/results.json": b'{"task": "Ant"',
        "note/results.json": b"{}",
        "note/cell.json": b"[1]",
        "good.jsonl.gz": gzip.compress(good),
        "lines.jsonl.gz": gzip.compress(good + b"{broken\n"),
        "cut.jsonl.gz": gzip.compress(good)[:2000],
        "bomb.jsonl.gz": gzip.compress(b'{"error": "' + b"A" * 2**27 + b'", "folder": "x"}\n', 1),
        "fields.jsonl.gz": gzip.compress(json.dumps({"task": "Ant", "final": 5}).encode() + b"\n"),
        "list.json": b"[1, 2]",
        "references.json": b'{"Ant: gravity 2": 5}',
    }
    for name, content in broken.items():
        path = report / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextmanager
def groups_composed_once() -> Iterator[None]:
    """Hydra merges the files of each choice of groups once, and puts single values on top as ever.

    Most lines of the table differ in single values, and merging takes three quarters of the time.
    """
    create, merge_files = config_loader_impl.create_defaults_list, ConfigLoaderImpl._compose_config_from_defaults_list
    lists: dict[Any, DefaultsList] = {}
    merged: dict[int, DictConfig] = {}

    def create_once(repo: Any, config_name: str, overrides_list: list[Override], **flags: bool) -> DefaultsList:
        values = Overrides(repo, overrides_list).config_overrides
        groups = [override for override in overrides_list if override not in values]
        sources = tuple(source.path for source in repo.get_sources())
        key = config_name, sources, *flags.values(), *(group.input_line for group in groups)
        if key not in lists:
            lists[key] = create(repo, config_name, groups, **flags)
        return replace(lists[key], config_overrides=values)

    def merge_once(self: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> DictConfig:
        if id(defaults) not in merged:
            merged[id(defaults)] = merge_files(self, defaults, repo)
        return deepcopy(merged[id(defaults)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_loader_impl, "create_defaults_list", create_once)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merge_once)
        yield


def _some_lines(path: Path, count: int) -> bytes:
    with gzip.open(path) as lines:
        return b"".join(line for line, _ in zip(lines, range(count), strict=False))
