"""What a program leaves in its folder: results to compare, and files that should not be there."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stable_baselines3.common.save_util import load_from_zip_file
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray

from daft_rl.files import UNFINISHED
from daft_rl.report.storage import read_cells, read_failures, save_cells
from daft_rl.run.names import EVENT_FILES

__all__ = ["broken_files", "differences", "outcome", "unfinished_files"]

TIMES = ("wall_seconds", "phases", "seconds_beside", "machine", "command", "versions", "peak_memory_mb")
"""Keys of JSON files that differ between two equal runs."""
CACHE = "torchinductor_"
"""How the name begins of PyTorch's cache, which it keeps in the folder for temporary files."""
ARCHIVES = ("final.zip", "agent.zip", "best.zip")


def outcome(folder: Path) -> dict[str, Any]:
    """What is left of a run or of a grid, without times: results, weights, episodes, points of TensorBoard, by path."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in ("results.json", "card.json", "cell.json"):
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key not in TIMES}
        elif path.name in ARCHIVES:
            tensors: Any = load_from_zip_file(path)[1]["policy"]
            found[name] = {key: tensor.tolist() for key, tensor in tensors.items()}
        elif path.name == "monitor.csv":
            rows = list(csv.reader(path.read_text().splitlines()[1:]))
            found[name] = [[*row[:2], *row[3:]] for row in rows]
        elif path.match(EVENT_FILES):
            found[f"{Path(name).parent}: scalars"] = _points(path.parent)
    if any(path.name == "cell.json" for path in folder.rglob("*")):
        found["report"] = _report(folder)
    return found


def _points(folder: Path) -> list[list[Any]]:
    """Step, name and value of every point, in order."""
    found = []
    for path in sorted(folder.glob(EVENT_FILES)):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if not value.tag.startswith("time/"):
                    found.append([event.step, value.tag, make_ndarray(value.tensor).tolist()])
    return sorted(found, key=str)


def _report(folder: Path) -> list[dict[str, Any]]:
    """The lines that a report saves."""
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "report.jsonl.gz"
        save_cells(read_cells([folder]), read_failures([folder]), path)
        lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what is not the same in both."""
    texts = [{key: json.dumps(value) for key, value in found.items()} for found in (one, other)]
    return sorted(key for key in {**one, **other} if texts[0].get(key) != texts[1].get(key))


def broken_files(folder: Path) -> list[str]:
    """Files of JSON that cannot be read, or hold what no JSON has."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    found = []
    for path in sorted(folder.rglob("*.json")):
        if path.name.startswith(UNFINISHED):
            continue
        try:
            json.loads(path.read_text("utf-8"), parse_constant=refuse)
        except ValueError:
            found.append(str(path.relative_to(folder)))
    return found


def unfinished_files(folder: Path, temporary: Path, ended: bool) -> list[str]:
    """Files that were being written, and files in the folder for temporary ones.

    :param ended: whether the program has come to its end, after which no checkpoints are there either
    """
    patterns = (f"{UNFINISHED}*", "checkpoints") if ended else (f"{UNFINISHED}*",)
    found = [path.relative_to(folder) for pattern in patterns for path in folder.rglob(pattern)]
    found += [Path("TMPDIR") / path.name for path in temporary.iterdir() if not path.name.startswith(CACHE)]
    return sorted(map(str, found))
