"""Gather run folders into one small JSON file and a Markdown table.

    python benchmarks/collect.py runs/sweep/2026-11-22_10-00-00 --out benchmarks/results/NAME.json --command "..."

Every ``results.json`` below the given folders becomes one row; nothing is left out.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, pstdev, stdev
from typing import Any

from daft_rl.run.results import machine


def agent_name(source: str) -> str:
    """Of an archive: the folder of a shipped ``agent.zip``, else the file."""
    path = Path(source)
    return path.parent.name if path.name == "agent.zip" else path.stem


def spread_of_episodes(played: dict[str, Any]) -> dict[str, float]:
    """Mean return under the name ``""``, and what tells how far episodes lie apart."""
    returns, costs = played["returns"], played.get("costs", [])
    found = {"": played["mean"], "_std": played["std"], "_least": min(returns), "_most": max(returns)}
    if costs:
        found |= {"_cost": played["mean_cost"], "_cost_std": pstdev(costs)}
    return {suffix: round(value, 1) for suffix, value in found.items()}


def read_rows(folders: list[Path]) -> list[dict[str, Any]]:
    """One row per run, in a fixed order."""
    rows = []
    for path in sorted(path for folder in folders for path in folder.rglob("results.json")):
        data = json.loads(path.read_text())
        rows.append(
            {key: data[key] for key in ("task", "shift", "algo", "method", "seed", "timesteps")}
            | {"agent": agent_name(data["source"])}
            | ({"realigned": data["realigned"]} if data.get("realigned") else {})
            | {
                f"{when}_{where}{suffix}": value
                for when in ("zero_shot", "final")
                for where in ("target", "source")
                if where in data[when]
                for suffix, value in spread_of_episodes(data[when][where]).items()
            }
            | {
                "episodes": len(data["final"]["target"]["returns"]),
                "wall_seconds": round(data["wall_seconds"], 1),
                "phases": {phase: round(seconds, 1) for phase, seconds in data["phases"].items()},
                "seconds_beside": round(data.get("seconds_beside", 0.0), 1),
                "curve": [[point["timesteps"], round(point["target"], 1)] for point in data["curve"]],
            }
        )
    return sorted(rows, key=lambda row: (*group_of(row), row["seed"]))


def group_of(row: dict[str, Any]) -> tuple[str, ...]:
    """What rows of one line of the table share."""
    return row["task"], json.dumps(row["shift"]), row["agent"], row["algo"], row["method"], str(row["timesteps"])


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds, to about three digits."""
    digits = 0 if abs(mean(values)) >= 100 else 1
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def cell(rows: list[dict[str, Any]], name: str) -> str:
    """Return over seeds, and the cost where there is one; empty where that was not played."""
    if name not in rows[0]:
        return ""
    costs = [row[f"{name}_cost"] for row in rows if f"{name}_cost" in row]
    return spread([row[name] for row in rows]) + (f", cost {spread(costs)}" if costs else "")


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: one line per task, shift, agent and method, best target return first."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["seed"] in [other["seed"] for other in groups[group_of(row)]]:
            raise SystemExit(f"Seed {row['seed']} stands there twice: {', '.join(group_of(row))}.")
        groups[group_of(row)].append(row)
    order = sorted(groups, key=lambda key: (*key[:4], -mean(row["final_target"] for row in groups[key])))
    columns = (
        *("task", "shift", "agent", "algorithm", "method", "steps", "seeds"),
        *("source before", "target zero-shot", "target final", "source final"),
    )
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for key in order:
        names = "zero_shot_source", "zero_shot_target", "final_target", "final_source"
        cells = [cell(groups[key], name) for name in names]
        lines.append(f"| {' | '.join(key)} | {len(groups[key])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Read, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--command", required=True, help="how the runs were made, for the reader of the file")
    arguments = parser.parse_args()
    rows = read_rows(arguments.folders)
    data = {
        "command": arguments.command,
        "machine": machine(),  # collect where the runs were made
        "runs": rows,
    }
    lines = table(rows)  # first: rows that do not go together are refused, and nothing is overwritten
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(data, indent=1) + "\n")
    print(lines)


if __name__ == "__main__":
    main()
