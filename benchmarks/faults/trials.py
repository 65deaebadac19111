"""Transfers that are started in a changed place, and what becomes of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.faults.cases import make_sources
from benchmarks.faults.leftovers import broken_files, outcome
from daft_rl.files import UNFINISHED
from daft_rl.overrides import quoted

__all__ = ["ANT", "TASK", "Place", "Runner", "disk", "without_places"]

PATIENCE = 300
OF_PATH = ("source", "compared")
"""What ``results.json`` tells of the agent's path, and of settings with that path."""
TASK = ("env=gymnasium", "env.id=Pendulum-v1", "env.kwargs.g=5.0", "vec=dummy")
FEW = (
    *("total_timesteps=2048", "num_envs=4", "calibration.steps=128", "calibration.held_out=32", "progress_bar=false"),
    *("evaluation.episodes=2", "evaluation.episodes_during=1", "evaluation.every=1000", "checkpoint.every=512"),
    *("method=daft", "checkpoint.share=1", "algo.settings.n_steps=32", "algo.settings.n_epochs=1"),
)
ANT = ("env=Ant-shifted", "vec=threads")


@dataclass
class Place:
    """Where a run is started, and how."""

    folder: Path
    """The run folder."""
    command: list[str]
    cwd: Path
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    shell: str = ""
    """A line of Bash in which ``"$@"`` is the command."""


@contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """A small file system in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "daft", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def without_places(text: str, folder: Path) -> str:
    """What a program said, without the folders of this machine."""
    return text.replace(str(folder.resolve()), "FOLDER").replace(sys.prefix, "PYTHON")


def start(place: Place) -> dict[str, Any]:
    """Run, and tell how it ended."""
    command = ["bash", "-c", place.shell or '"$@"', "bash", *place.command]
    done = subprocess.run(
        command, cwd=place.cwd, env=place.environment, stdin=subprocess.DEVNULL, capture_output=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    told = without_places(done.stderr.decode(errors="backslashreplace"), place.cwd)
    lines = [line for line in told.splitlines() if line.strip()]
    return {
        "exit_code": done.returncode,
        "traceback": "Traceback" in told,
        "lines": len(lines),
        "said": [re.sub(r"\s+", " ", line)[:300] for line in lines[-3:]],
    }


def broken(folder: Path) -> list[str]:
    """What is half-written in a folder."""
    found = [path.name for path in folder.rglob(f"{UNFINISHED}*")] + broken_files(folder)
    for path in folder.rglob("*.zip"):
        try:
            damaged = zipfile.ZipFile(path).testzip() is not None
        except (OSError, zipfile.BadZipFile):
            damaged = True
        if damaged:
            found.append(path.name)
    return found


def result(folder: Path) -> dict[str, Any]:
    """What a run ends with, without the agent's path."""
    with TemporaryDirectory() as copy:  # TensorBoard's reader takes no path that is not UTF-8
        found = outcome(shutil.copytree(folder, Path(copy) / "run"))
    found["results.json"] = {key: found["results.json"][key] for key in found["results.json"] if key not in OF_PATH}
    return found


class Runner:
    """Runs a command in places, and compares with what it gives in an ordinary one."""

    def __init__(self, work: Path, out: Path) -> None:
        self.work, self.out = work, out
        self.sources = work / "sources"
        make_sources(self.sources)
        lines = out.read_text().splitlines() if out.is_file() else []
        self.known = {json.loads(line)["place"] for line in lines}
        self.expected: dict[str, Any] = {}

    def command(self, folder: Path, agent: Path | None = None, task: tuple[str, ...] = TASK) -> list[str]:
        """A transfer of Pendulum, or of another task."""
        source = [] if task is ANT else [f"agent={quoted(str(agent or self.sources / 'PPO-Pendulum.zip'))}"]
        program = [sys.executable, "-W", "default::daft_rl.errors.DaftWarning", "-m", "daft_rl.transfer"]
        return [*program, *task, *FEW, *source, f"output_dir={quoted(str(folder))}"]

    def reference(self, task: tuple[str, ...]) -> dict[str, Any]:
        """What the run ends with in an ordinary place."""
        name = task[0]
        if name not in self.expected:
            folder = self.work / f"ordinary-{name}"
            if not (folder / "results.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)
                ended = start(Place(folder, self.command(folder, task=task), self.work))
                if ended["exit_code"]:
                    raise RuntimeError(f"the run fails in an ordinary place: {ended}")
            self.expected[name] = result(folder)
        return self.expected[name]

    def place(self, name: str, task: tuple[str, ...] = TASK) -> Place:
        """An ordinary place, to be changed."""
        base = self.work / re.sub(r"\W", "-", name)
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        return Place(base / "run", self.command(base / "run", task=task), base)

    def note(self, name: str, place: Place, task: tuple[str, ...] = TASK, **more: Any) -> None:
        """Run, and write a line."""
        ended = start(place) | more
        folder = place.folder
        finished = (folder / "results.json").is_file()
        line = {"place": name} | ended | {"finished": finished, "broken": broken(folder) if folder.is_dir() else []}
        if finished:
            line["equal"] = result(folder) == self.reference(task)
        self.write(line)

    def write(self, line: dict[str, Any]) -> None:
        """Keep a line."""
        with self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
