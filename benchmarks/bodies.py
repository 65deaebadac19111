"""Zero-shot returns on other bodies: entries matched by name, by position, and with the new limb as a copy.

``python -m benchmarks.bodies --episodes 20`` appends one line for each row to ``benchmarks/results/bodies.jsonl``.
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
]
"""Target, its level, the source, and ``agent.correspondence``."""


def measure(target: str, level: str | None, source: str, correspondence: Any, episodes: int) -> dict[str, Any]:
    """Play a source on another body, and on its own."""
    with TemporaryDirectory() as folder:
        settings = {"evaluation.episodes": episodes, "agent.correspondence": correspondence, "progress_bar": False}
        result = transfer(target, "zero_shot", source, shift=level, output_dir=Path(folder) / "run", settings=settings)
    returns = {role: found.returns for role, found in result.zero_shot.items()}
    return {"env": target, "shift": level, "source": source, "correspondence": correspondence, "returns": returns}


def main() -> None:
    """Measure all rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=20)
    given = parser.parse_args()
    for row in ROWS:
        found = measure(*row, given.episodes)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        print({key: value for key, value in found.items() if key != "returns"}, found["returns"], flush=True)


if __name__ == "__main__":
    main()
