"""The tables in README come from ``benchmarks/collect.py``: one line per group, mean and spread over its seeds."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

COLLECT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "collect.py"))


def write_run(folder: Path, seed: int, returned: float, /, **changes: Any) -> None:
    def played(mean: float) -> dict[str, Any]:
        return {"mean": mean, "std": 1.0, "returns": [mean - 1, mean + 1], "lengths": [5, 5]}

    data = {
        "task": "Ant-shifted", "shift": {"gravity": 0.5}, "algo": "ppo", "method": "daft", "seed": seed,
        "timesteps": 1000, "source": "agents/pretrained/Ant-ppo/agent.zip", "wall_seconds": 9.04,
        "phases": {"update": 1.04}, "curve": [{"timesteps": 0, "target": 1.23}],
        "zero_shot": {"target": played(100), "source": played(900)},
        "final": {"target": played(returned), "source": played(800)},
    } | changes  # fmt: skip
    path = folder / f"{data['method']}-{seed}-{returned}" / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(data))


def test_mean_and_spread_over_seeds(tmp_path: Path) -> None:
    for seed, final in enumerate((300.0, 400.0, 500.0)):
        write_run(tmp_path, seed, final)
    write_run(tmp_path, 0, 7000.0, method="ft")
    rows = COLLECT["read_rows"]([tmp_path])
    assert [(row["method"], row["seed"], row["final_target"]) for row in rows] == [
        *(("daft", seed, final) for seed, final in enumerate((300, 400, 500))),
        ("ft", 0, 7000),
    ]
    assert rows[0]["agent"] == "Ant-ppo"
    assert (rows[0]["final_target_least"], rows[0]["final_target_most"]) == (299, 301)
    best, other = COLLECT["table"](rows).splitlines()[2:]
    assert "| ft | 1000 | 1 | 900 | 100 | 7000 | 800 |" in best
    assert "| daft | 1000 | 3 | 900 ± 0 | 100 ± 0 | 400 ± 100 | 800 ± 0 |" in other


def test_costs_stand_beside_returns(tmp_path: Path) -> None:
    found = {"mean": 5.0, "std": 0.0, "returns": [5.0, 5.0], "lengths": [9, 9], "mean_cost": 30.0, "costs": [20, 40]}
    write_run(tmp_path, 0, 5.0, final={"target": found, "source": found})
    rows = COLLECT["read_rows"]([tmp_path])
    assert rows[0]["final_target_cost_std"] == 10
    assert "5.0, cost 30.0" in COLLECT["table"](rows)


def test_a_seed_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path, 0, 300.0)
    write_run(tmp_path, 0, 400.0)
    out = tmp_path / "table.json"
    out.write_text("as it was")
    monkeypatch.setattr(sys, "argv", ["collect.py", str(tmp_path), "--out", str(out), "--command", "two runs"])
    with pytest.raises(SystemExit, match="Seed 0 stands there twice"):
        COLLECT["main"]()
    assert out.read_text() == "as it was"
