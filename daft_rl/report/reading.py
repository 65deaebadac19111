"""Files of a report are untrusted: they are read within bounds, checked, and named in every message."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictFloat, StrictInt, ValidationError

from daft_rl.errors import ReportError
from daft_rl.validation import Text

__all__ = ["Note", "Reference", "Result", "Saved", "check", "read_json", "read_lines"]

MOST_BYTES = 2**23
"""Of one file of JSON, or of one line. A finished transfer takes a thousandth of it."""
MOST_LINES = 100_000

LARGEST = 1e30
"""Statistics square what they average, which must not overflow."""
Real = Annotated[StrictInt | StrictFloat, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]


def _bounded(value: int | float) -> int | float:
    if abs(value) > LARGEST:
        raise ValueError(f"a number of at most {LARGEST:g}")
    return value


Distance = Annotated[StrictInt | StrictFloat, AfterValidator(_bounded)]
"""NaN where features are constant."""


class ReturnsData(BaseModel):
    """Returns under one shift."""

    mean: Real
    std: Real | None = None
    mean_cost: Real | None = None
    returns: list[Real] = []
    lengths: list[Real] = []
    costs: list[Real] | None = None


class Arm(BaseModel):
    """An arm of a race: what it returned at the rung, or why it fell away."""

    left_out: Text | None = None
    returns: dict[Text, ReturnsData] = {}


class RaceData(BaseModel):
    """How a run chose its method."""

    rung: StrictInt
    arms: dict[Text, Arm]
    winner: Text
    why: Text


class Point(BaseModel):
    """One evaluation during learning, with its distances by name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Distance | None]

    timesteps: Real
    target: Real


class Machine(BaseModel):
    """Where a transfer ran."""

    processor: Text
    cores: StrictInt | None
    python: Text
    versions: dict[Text, Text]


class Result(BaseModel):
    """What a report needs of a finished transfer. Other keys may be there."""

    task: Text
    shift: dict[Text, Any]
    algo: Text
    method: Text
    seed: StrictInt
    timesteps: StrictInt
    wall_seconds: Real
    curve: list[Point]
    zero_shot: dict[Text, ReturnsData]
    final: dict[Text, ReturnsData]
    phases: dict[Text, Real] | None = None
    distortion: dict[Text, dict[Text, Distance]] | None = None
    distortion_on_source: dict[Text, dict[Text, Distance]] | None = None
    machine: Machine | Annotated[dict[Text, Any], Field(max_length=0)] | None = None
    compared: Text | None = None
    method_digest: Text | None = None
    source: Text | None = None
    race: RaceData | None = None
    peak_memory_mb: Real | None = None
    content: Text | None = None


class Note(BaseModel):
    """What ``cell.json`` tells of a cell of a grid."""

    status: Literal["finished", "failed", "unfinished"]
    error: Text = ""
    peak_memory_mb: Real | None = None
    content: Text | None = None


class Saved(BaseModel):
    """A failure in a file of ``--save``."""

    folder: Text
    error: Text


class Reference(BaseModel):
    """Returns of a target that have the scores 0 and 1."""

    random: Real
    expert: Real
    command: Text


def check(kind: type[BaseModel], data: Any, where: object) -> None:
    """
    :param kind: what the data should be
    :param where: where they stand
    :raises ReportError: they are something else
    """
    try:
        kind.model_validate(data)
    except ValidationError as problems:
        first = problems.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        what = f"'{path}' is wrong: {first['msg'].lower()}" if path else first["msg"].lower()
        raise ReportError(f"{where}: no {kind.__name__.lower()} that daft_rl wrote: {what}.") from None


def read_json(path: Path) -> Any:
    """Read a file of JSON.

    :raises ReportError: it cannot be read, is larger than :data:`MOST_BYTES`, or holds something else
    """
    try:
        with path.open("rb") as opened:
            return _parse(opened.read(MOST_BYTES + 1))
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(f"{path} cannot be read: {_reason(error)}. Delete it, or write it anew.") from error


def read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Read a compressed file with JSON in every line.

    :return: where each line stands, and its data
    :raises ReportError: as :func:`read_json`, or there are more than :data:`MOST_LINES` lines
    """
    number = 0
    try:
        with gzip.open(path) as lines:
            while line := lines.readline(MOST_BYTES + 1):
                number += 1
                if number > MOST_LINES:
                    raise ValueError(f"expected at most {MOST_LINES} lines")
                yield f"{path}, line {number}", _parse(line)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise ReportError(
            f"{path}: expected a folder with runs, or a file that --save wrote (.jsonl.gz): line {number}: "
            f"{_reason(error)}."
        ) from error


def _parse(text: bytes) -> Any:
    if len(text) > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES} bytes")
    return json.loads(text)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200].removesuffix(".") or type(error).__name__
