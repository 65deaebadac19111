"""Zero-shot returns on other bodies: entries matched by name, by position, and with the new limb as a copy.

``python -m benchmarks.bodies --episodes 20`` appends a line to ``benchmarks/results/bodies.jsonl`` for each row that is
not there yet.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from daft_rl import transfer

RESULTS = Path(__file__).parent / "results" / "bodies.jsonl"
COPY = {"like": {"bthigh2": "bthigh", "bshin2": "bshin", "bfoot2": "bfoot"}}
ROWS: list[tuple[str, str | None, str, Any]] = [
    *(("Ant-fivelegs", None, source, by) for source in ("Ant-crossq", "Ant-ppo") for by in ("auto", "positions")),
    *(
        ("HalfCheetah-threelegs", None, source, by)
        for source in ("HalfCheetah-crossq", "HalfCheetah-ppo")
        for by in ("auto", "positions", COPY)
    ),
    ("Ant", "leg-less", "Ant-crossq", "auto"),
    ("HalfCheetah", "foot-less", "HalfCheetah-crossq", "auto"),
    *((f"{task}-UR5e", None, f"{task}-crossq", by) for task in ("Door", "Wipe") for by in ("auto", "positions")),
    ("SafetyDoggoGoal0", None, "SafetyCarGoal0-ppo", "auto"),
]
"""Target, its level, the source, and ``agent.correspondence``."""


def measure(target: str, level: str | None, source: str, correspondence: Any, episodes: int) -> dict[str, Any]:
    """Returns of a source on another body, and on its own."""
    with TemporaryDirectory() as folder:
        settings = {"evaluation.episodes": episodes, "agent.correspondence": correspondence, "progress_bar": False}
        result = transfer(target, "zero_shot", source, shift=level, output_dir=Path(folder) / "run", settings=settings)
    return {"returns": {role: found.returns for role, found in result.zero_shot.items()}}


def main() -> None:
    """Measure all rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=20)
    given = parser.parse_args()
    done = [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()]
    for row in ROWS:
        cell = dict(zip(("env", "shift", "source", "correspondence"), row, strict=True))
        if any(cell.items() <= line.items() for line in done):
            continue
        found = cell | measure(*row, given.episodes)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        print({key: value for key, value in found.items() if key != "returns"}, found["returns"], flush=True)


if __name__ == "__main__":
    main()
