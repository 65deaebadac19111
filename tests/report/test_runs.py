"""The table of runs has one row per group, with mean and spread over its seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daft_rl.errors import ReportError
from daft_rl.report.runs import run_table
from daft_rl.report.storage import read_cells, save_cells

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def written_returns(mean: float) -> dict[str, Any]:
    return {"mean": mean, "std": 1.0, "returns": [mean - 1, mean + 1], "lengths": [5, 5]}


def write_run(folder: Path, seed: int, final: float, /, **changes: Any) -> None:
    data = {
        "task": "Ant-shifted", "shift": {"gravity": 0.5}, "algo": "ppo", "method": "daft", "seed": seed,
        "timesteps": 1000, "source": "agents/pretrained/Ant-ppo/agent.zip", "wall_seconds": 9.04,
        "phases": {"update": 1.04}, "curve": [{"timesteps": 0, "target": 1.23}],
        "zero_shot": {"target": written_returns(100), "source": written_returns(900)},
        "final": {"target": written_returns(final), "source": written_returns(800)},
    } | changes  # fmt: skip
    path = folder / f"{data['method']}-{seed}-{final}" / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(data))


def test_a_row_has_mean_and_spread_over_seeds(tmp_path: Path) -> None:
    for seed, final in enumerate((300.0, 400.0, 500.0)):
        write_run(tmp_path, seed, final)
    write_run(tmp_path, 0, 7000.0, method="ft")
    best, other = run_table(read_cells([tmp_path]))
    assert best["method"] == "ft"
    assert best["target final"] == "7000"
    assert list(other.values()) == [
        *("Ant-shifted", '{"gravity": 0.5}', "Ant-ppo", "ppo", "daft", "1000", "3"),
        *("900 ± 0", "100 ± 0", "400 ± 100", "800 ± 0"),
    ]


def test_costs_are_beside_returns(tmp_path: Path) -> None:
    returns = {"mean": 5.0, "std": 0.0, "returns": [5.0, 5.0], "lengths": [9, 9], "mean_cost": 30.0, "costs": [20, 40]}
    write_run(tmp_path, 0, 5.0, final={"target": returns})
    (row,) = run_table(read_cells([tmp_path]))
    assert row["target final"] == "5.0, cost 30.0"
    assert row["source final"] == "", "the run did not evaluate there"


def test_a_seed_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, 0, 300.0)
    write_run(tmp_path, 0, 400.0)
    with pytest.raises(ReportError, match=r"Ant-ppo, ppo, daft, 1000, seed 0 is in .* and in "):
        run_table(read_cells([tmp_path]))


def test_saved_runs_give_the_same_table(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", 0, 300.0)
    cells = read_cells([tmp_path / "runs"])
    saved = tmp_path / "saved.jsonl.gz"
    save_cells(cells, [], saved)
    assert run_table(read_cells([saved])) == run_table(cells)


@pytest.mark.parametrize("path", sorted([*RESULTS.glob("*.jsonl.gz"), *RESULTS.glob("*.json")]), ids=lambda p: p.name)
def test_committed_results_can_be_read(path: Path) -> None:
    if path.suffix == ".json" and "curve" not in json.loads(path.read_text()).get("runs", [{}])[0]:
        pytest.skip("no transfers")
    if path.name == "speed_whole_run.json":
        pytest.skip("runs of two programs")
    assert all(row["target final"] for row in run_table(read_cells([path])))


def test_the_committed_door_runs_give_the_published_table() -> None:
    (row,) = run_table(read_cells([RESULTS / "door.json"]))
    assert (row["source before"], row["target final"], row["source final"]) == ("483 ± 0", "167 ± 12", "97 ± 113")
