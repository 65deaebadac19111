"""The cells of a benchmark, read from their run folders, or from one small file in which they were saved."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daft_rl.errors import ReportError

__all__ = ["Cell", "Failure", "read_cells", "read_failures", "save_cells", "target_name"]

SAVED = (
    *("task", "shift", "algo", "method", "seed", "timesteps", "wall_seconds", "peak_memory_mb", "phases", "curve"),
    *("compared", "method_digest", "content", "machine", "realigned"),
)
"""What is saved as it is."""


@dataclass(frozen=True)
class Cell:
    """One finished transfer."""

    folder: Path
    data: dict[str, Any]
    """What stands in its ``results.json``, and ``peak_memory_mb`` and ``content`` of its ``cell.json``."""

    @property
    def target(self) -> str:
        """Task and shift, see :func:`target_name`."""
        return target_name(self.data["task"], self.data["shift"])

    @property
    def method(self) -> str:
        return self.data["method"]

    @property
    def seed(self) -> int:
        return self.data["seed"]

    def mean(self, where: str = "target", when: str = "final") -> float:
        """Mean return over the episodes."""
        return self.data[when][where]["mean"]

    def elsewhere(self, when: str = "final") -> float | None:
        """Mean return over shifts never trained on (out of distribution); ``None`` where none was played."""
        others = [returns["mean"] for role, returns in self.data[when].items() if role not in ("target", "source")]
        return float(np.mean(others)) if others else None

    @property
    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Target steps and returns of the evaluations during learning."""
        points = self.data["curve"]
        return np.array([p["timesteps"] for p in points], float), np.array([p["target"] for p in points], float)

    @property
    def area(self) -> float | None:
        """Mean height of the learning curve (its area by its length)."""
        steps, returns = self.curve
        if len(steps) < 2:
            return None
        return float(np.sum(np.diff(steps) * (returns[1:] + returns[:-1]) / 2) / (steps[-1] - steps[0]))

    def steps_to(self, threshold: float) -> float | None:
        """Target steps at the first evaluation that reaches ``threshold``; ``None`` if none does."""
        steps, returns = self.curve
        reached = np.flatnonzero(returns >= threshold)
        return float(steps[reached[0]]) if len(reached) else None

    def last(self, key: str) -> float | None:
        """A distance at the last evaluation during learning, such as ``distortion_actor_cosine``.

        ``None`` where the only one was at the start, when nothing has moved.
        """
        return self.data["curve"][-1].get(key) if len(self.data["curve"]) > 1 else None

    def layers(self, where: str) -> dict[str, dict[str, float]]:
        """``cosine``, ``l2`` and ``cka`` of each layer's features, now and at the start.

        :param where: on states of ``target`` or ``source``
        """
        distances = self.data.get("distortion" if where == "target" else "distortion_on_source") or {}
        return {layer: found for layer, found in distances.items() if "cka" in found}


@dataclass(frozen=True)
class Failure:
    """One transfer that raised."""

    folder: Path
    error: str


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {_short(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_short(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def target_name(task: str, changes: Mapping[str, Any]) -> str:
    """A task and its shift in words, like ``Ant: gravity 0.5``.

    :param task: with or without ``-shifted``
    :param changes: the fields of the shift that change something
    """
    shift = ", ".join(f"{name} {_short(value)}" for name, value in sorted(changes.items()))
    return f"{task.removesuffix('-shifted')}: {shift or 'no shift'}"


def read_cells(folders: Iterable[Path]) -> list[Cell]:
    """Every finished cell below some folders, or in files of :func:`save_cells`, in a fixed order.

    :raises ReportError: there is none, or a folder does not exist; one seed of one method stands there twice; or runs
        on one target differ in more than method and seed
    """
    folders = list(folders)
    absent = [str(folder) for folder in folders if not folder.exists()]
    if absent:
        raise ReportError(f"{', '.join(absent)} does not exist: pass run folders of a benchmark, or files of --save.")
    cells = []
    for folder in folders:
        cells += [Cell(folder, data) for data in _read_saved(folder) if "error" not in data]
        for path in sorted(folder.rglob("results.json")):
            noted = path.with_name("cell.json")
            note = json.loads(noted.read_text("utf-8")) if noted.exists() else {"status": "finished"}
            if note["status"] == "finished":
                data = json.loads(path.read_text("utf-8"))
                cells.append(Cell(path.parent, data | {key: note.get(key) for key in ("peak_memory_mb", "content")}))
    if not cells:
        raise ReportError(
            f"No results.json below {', '.join(map(str, folders))}: run python -m daft_rl.benchmark first."
        )
    seen: dict[tuple[str, str, int], Cell] = {}
    for cell in cells:
        key = (cell.target, cell.method, cell.seed)
        if key in seen:
            raise ReportError(
                f"{cell.target}, {cell.method}, seed {cell.seed} stands in {seen[key].folder} and in {cell.folder}: "
                "a run belongs in a report once, and runs with different settings do not belong in one."
            )
        seen[key] = cell
    for setting, reason in (
        ("compared", "in more than method and seed (see their config.yaml)"),
        ("content", "in the agent's file, or in what a level's name stands for"),
    ):
        _check_alike(cells, setting, lambda cell: cell.target, reason)
    _check_alike(
        cells, "method_digest", lambda cell: (cell.target, cell.method), "in the method's settings, not its name"
    )
    return sorted(cells, key=lambda cell: (cell.target, cell.method, cell.seed))


def _check_alike(cells: list[Cell], setting: str, group: Callable[[Cell], Hashable], reason: str) -> None:
    """Cells of one group must agree in a setting, where it is known (older versions of daft_rl did not note all)."""
    first: dict[Hashable, Cell] = {}
    for cell in cells:
        if cell.data.get(setting) is None:
            continue
        other = first.setdefault(group(cell), cell)
        if other.data[setting] != cell.data[setting]:
            raise ReportError(
                f"{cell.target}: {other.folder} and {cell.folder} differ {reason}: they cannot be compared."
            )


def _read_saved(path: Path) -> list[dict[str, Any]]:
    """What :func:`save_cells` wrote; nothing if it is a folder."""
    if not path.is_file():
        return []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: expected run folders, or a file that --save wrote (.jsonl.gz): {error}.") from error


def _rounded(value: Any) -> Any:
    """Six significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def save_cells(cells: Iterable[Cell], failures: Iterable[Failure], path: Path) -> None:
    """Write one small file with all that a report shows: a line of JSON per cell, compressed.

    :param cells: finished transfers
    :param failures: those that raised
    :param path: ending in ``.jsonl.gz``
    """
    lines = [json.dumps({"folder": str(failure.folder), "error": failure.error}) + "\n" for failure in failures]
    for cell in cells:
        data = {key: cell.data.get(key) for key in SAVED}
        for when in ("zero_shot", "final"):
            data[when] = {
                role: {key: returns[key] for key in ("mean", "std", "mean_cost") if key in returns}
                for role, returns in cell.data[when].items()
            }
        data |= {"distortion": cell.layers("target"), "distortion_on_source": cell.layers("source")}
        lines.append(json.dumps(_rounded(data)) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(lines).encode("utf-8"), mtime=0))


def read_failures(folders: Iterable[Path]) -> list[Failure]:
    """Every cell that failed and was not run again."""
    found = []
    for folder in folders:
        found += [Failure(Path(data["folder"]), data["error"]) for data in _read_saved(folder) if "error" in data]
        for path in sorted(folder.rglob("cell.json")):
            cell = json.loads(path.read_text("utf-8"))
            if cell["status"] != "finished":
                found.append(Failure(path.parent, cell["error"]))
    return found
