"""Read finished transfers from run folders and from files, and save them in one small file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from daft_rl.errors import ReportError
from daft_rl.report.cells import Cell, Failure, When
from daft_rl.report.reading import Note, Result, Saved, check, read_json, read_lines
from daft_rl.run.results import RESULTS_FILE, TransferResult

__all__ = ["agent_name", "read_cells", "read_failures", "read_note", "save_cells"]

SAVED = (
    *("task", "shift", "algo", "method", "seed", "timesteps", "wall_seconds", "phases", "curve"),
    *("compared", "method_digest", "machine", "realigned"),
)
"""Keys of ``results.json`` that are saved unchanged, apart from rounding."""
WHEN: tuple[When, ...] = ("zero_shot", "final")


def read_cells(paths: Iterable[Path]) -> list[Cell]:
    """Read every finished transfer, in the order of the paths.

    :param paths: folders that hold run folders, files that :func:`save_cells` wrote (``.jsonl.gz``), or collected
        files of daft_rl 0.1 (``.json``)
    :raises ReportError: a path does not exist, is another kind of file, or there is no finished transfer
    """
    paths = list(paths)
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise ReportError(f"{', '.join(missing)} does not exist: pass run folders of a benchmark, or files of --save.")
    cells: list[Cell] = []
    for path in paths:
        cells += _read_folder(path) if path.is_dir() else _read_file(path)
    if not cells:
        raise ReportError(
            f"No finished run in {', '.join(map(str, paths))}: expected folders with {RESULTS_FILE}, which python -m "
            "daft_rl.benchmark and python -m daft_rl.transfer write."
        )
    return cells


def read_failures(paths: Iterable[Path]) -> list[Failure]:
    """Read every transfer of a benchmark that failed and was not repeated successfully."""
    failures = []
    for path in paths:
        if path.is_file():
            failures += [
                Failure(Path(data["folder"]), data["error"]) for _, data in _read_data(path) if "error" in data
            ]
            continue
        for note_path in sorted(path.rglob("cell.json")):
            note = read_note(note_path)
            if note["status"] != "finished":
                failures.append(Failure(note_path.parent, note.get("error", "")))
    return failures


def save_cells(cells: Iterable[Cell], failures: Iterable[Failure], path: Path) -> None:
    """Write all that a report shows into one small file: a line of JSON per transfer, compressed.

    :param path: ends in ``.jsonl.gz``
    """
    lines = [{"folder": failure.name, "error": failure.error} for failure in failures]
    ordered = sorted(cells, key=lambda cell: (cell.target, cell.method, cell.seed))
    lines += [_rounded(_saved_data(cell)) for cell in ordered]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error}.") from error


def agent_name(source: str) -> str:
    """Name of a source policy: the folder of a file ``agent.zip``, or else the name of the file.

    :param source: path of its archive
    """
    path = Path(source)
    return path.parent.name if path.name == "agent.zip" else path.stem


def read_note(path: Path) -> dict[str, Any]:
    """Read ``cell.json``.

    :raises ReportError: it is damaged
    """
    note = read_json(path)
    check(Note, note, path)
    return note


def _read_result(where: object, data: Any, folder: Path) -> TransferResult:
    """
    :raises ReportError: no finished transfer
    """
    check(Result, data, where)
    for when in WHEN:
        if "target" not in data[when]:
            raise ReportError(f"{where}: no result that daft_rl wrote: {when} has no returns on the target.")
    return TransferResult.from_dict(data, folder)


def _read_folder(folder: Path) -> list[Cell]:
    cells = []
    for path in sorted(folder.rglob(RESULTS_FILE)):
        note_path = path.with_name("cell.json")  # only cells of a benchmark have one
        note: dict[str, Any] = {"status": "finished"}
        if note_path.exists():
            note = read_note(note_path)
        if note["status"] == "finished":
            result = _read_result(path, read_json(path), path.parent)
            cells.append(Cell(result, note.get("peak_memory_mb"), note.get("content")))
    return cells


def _read_file(path: Path) -> list[Cell]:
    cells = []
    for where, data in _read_data(path):
        if "error" not in data:
            result = _read_result(where, data, path)
            cells.append(Cell(result, data.get("peak_memory_mb"), data.get("content")))
    return cells


def _read_data(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """One dictionary per transfer, as in ``results.json``, and where it stands."""
    if path.suffix == ".json":
        try:
            data = read_json(path)
            rows = [_read_collected(row) for row in data["runs"]]
        except (ReportError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ReportError(
                f"{path}: expected a folder with runs, or a file that --save wrote (.jsonl.gz): {error}"
            ) from error
        yield from ((f"{path}, run {number}", row) for number, row in enumerate(rows, 1))
        return
    for where, data in read_lines(path):
        if not isinstance(data, dict):
            raise ReportError(f"{where}: expected names with values, got {str(data)[:50]}.")
        if "error" in data:
            check(Saved, data, where)
        yield where, data


def _read_collected(row: dict[str, Any]) -> dict[str, Any]:
    """One row of a collected file of daft_rl 0.1, which holds returns as ``final_target``, ``final_target_std``, ..."""
    data = dict(row) | {"source": row.get("agent", "")}
    data["curve"] = [{"timesteps": steps, "target": value} for steps, value in row["curve"]]
    keys = {"mean": "", "std": "_std", "mean_cost": "_cost"}
    for when in WHEN:
        data[when] = {
            role: {
                key: row[f"{when}_{role}{suffix}"] for key, suffix in keys.items() if f"{when}_{role}{suffix}" in row
            }
            for role in ("target", "source")
            if f"{when}_{role}" in row
        }
    return data


def _saved_data(cell: Cell) -> dict[str, Any]:
    everything = cell.result.as_dict()
    data = {key: everything[key] for key in SAVED}
    data |= {"source": agent_name(cell.result.source)}  # a path would name folders of this machine
    data |= {"peak_memory_mb": cell.peak_memory_mb, "content": cell.content}
    for when in WHEN:
        data[when] = _without_episodes(everything[when])
    if everything["race"]:
        arms = {
            name: arm | {"returns": _without_episodes(arm["returns"])} if "returns" in arm else arm
            for name, arm in everything["race"]["arms"].items()
        }
        data["race"] = everything["race"] | {"arms": arms}
        if ending := everything["race"].get("ending"):
            played = {name: _without_episodes(returns) for name, returns in ending["returns"].items()}
            data["race"]["ending"] = ending | {"returns": played}
    return data | {"distortion": cell.layers("target"), "distortion_on_source": cell.layers("source")}


def _without_episodes(returns: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a report needs of returns by role."""
    return {
        role: {key: one[key] for key in ("mean", "std", "mean_cost") if key in one} for role, one in returns.items()
    }


def _rounded(value: Any) -> Any:
    """Round to six significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
