"""Compare how fast SB3, daft_rl and sbx (SB3's algorithms in JAX) learn on one core.

    python -m benchmarks.speed.learner --out benchmarks/results/speed_learner.json

Networks have two layers of 256 units, minibatches 256 transitions. Off-policy algorithms make a gradient step after
each step of their one environment. PPO plays 16 environments for 128 steps, and makes 80 gradient steps with that. All
libraries have the same settings and environments. daft_rl learns as ``daft_rl.adapt`` prepares it.

Each variant runs in a process of its own, on the same core and with one thread. Variants take turns in each round. What
is compiled is compiled before the clock starts. The time of updates is taken between rollouts while an agent learns, so
it includes sampling. ``relative`` is above 1 where daft_rl is faster, in CPU time; ratios are taken within rounds.

With BatchNorm, SB3 and daft_rl have a layer before each hidden activation and use running statistics in updates. sbx
has BatchNorm in CrossQ only, so its numbers without stand beside theirs. CrossQ uses its own layers and the statistics
of batches everywhere.

``of_matrix_limit`` is the share of what the fastest of ``torch.mm``, oneDNN and NumPy reaches in the same round in
products of 256 x 256 matrices. It counts necessary operations only (``learner_operations.py``), in CPU seconds.

Runs that are in the file are not repeated. sbx runs in an environment of its own (``sbx_python.py``).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.speed.learner_operations import ENVIRONMENTS, operations
from benchmarks.speed.sbx_python import run_module
from daft_rl.run.results import machine

VARIANTS = ("sb3", "daft_rl", "sbx")
OURS = "daft_rl"
WORKER = "benchmarks.speed.learner_worker"

Run = dict[str, Any]
Rates = dict[str, float]


def list_jobs(algorithms: list[str], variants: list[str], round_index: int) -> list[Run]:
    """The runs of one round. Each round begins with another variant."""
    shift = round_index % len(variants)
    turns = variants[shift:] + variants[:shift]
    jobs: list[Run] = [{"variant": "limit"}]
    for algorithm in algorithms:
        for batchnorm in (False, True):
            with_batchnorm = [v for v in turns if not batchnorm or v != "sbx" or algorithm == "CrossQ"]
            jobs += [{"variant": v, "algorithm": algorithm, "batchnorm": batchnorm} for v in with_batchnorm]
    return [{"round": round_index, **job} for job in jobs]


def measure(job: Run, steps: int, sbx_python: Path | None) -> Run:
    """Do a job in a new process."""
    work = {name: value for name, value in job.items() if name != "round"} | {"steps": steps}
    return job | run_module(WORKER, [json.dumps(work)], job["variant"] == "sbx", sbx_python)


def derive(run: Run, gflops: float) -> Rates:
    """Rates of a run.

    :param gflops: the matrix limit in its round
    """
    needed = operations(run["algorithm"], run["batchnorm"]) * run["gradient_steps"] / 1e9
    return {
        "steps_per_cpu_second": run["env_steps"] / run["cpu"],
        "steps_per_second": run["env_steps"] / run["wall"],
        "update_cpu_ms": run["update_cpu"] / run["gradient_steps"] * 1e3,
        "update_ms": run["update_wall"] / run["gradient_steps"] * 1e3,
        "of_matrix_limit": needed / run["update_cpu"] / gflops,
    }


def summary(values: list[float]) -> dict[str, float]:
    """Median and spread, with four digits."""
    found = {"median": median(values), "min": min(values), "max": max(values)}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def summarize_row(by_variant: dict[str, dict[int, Rates]]) -> dict[str, Any]:
    """Medians by variant, and the speed of daft_rl relative to the others.

    :param by_variant: variant -> round -> rates
    """
    row: dict[str, Any] = {
        variant: {name: summary([rates[name] for rates in rounds.values()]) for name in next(iter(rounds.values()))}
        for variant, rounds in by_variant.items()
    }
    relative = {}
    for other, rounds in by_variant.items():
        shared = sorted(rounds.keys() & by_variant.get(OURS, {}).keys())
        if other != OURS and shared:
            pairs = [(by_variant[OURS][i], rounds[i]) for i in shared]
            relative[other] = {
                "steps": summary([a["steps_per_cpu_second"] / b["steps_per_cpu_second"] for a, b in pairs]),
                "update": summary([b["update_cpu_ms"] / a["update_cpu_ms"] for a, b in pairs]),
            }
    return row | {"relative": relative}


def rows_of(run: Run) -> list[str]:
    """Where a run stands. What has no BatchNorm of its own stands beside the others' numbers with it, too."""
    if run["variant"] == "sbx" and run["algorithm"] != "CrossQ":
        return ["without", "batchnorm"]
    return ["batchnorm" if run["batchnorm"] else "without"]


def summarize(runs: list[Run]) -> dict[str, Any]:
    """Algorithm -> without and with BatchNorm -> rates."""
    limits = {run["round"]: max(run["gflops"].values()) for run in runs if run["variant"] == "limit"}
    rows: dict[tuple[str, str], dict[str, dict[int, Rates]]] = {}
    for run in (run for run in runs if run["variant"] != "limit"):
        for name in rows_of(run):
            by_variant = rows.setdefault((run["algorithm"], name), {})
            by_variant.setdefault(run["variant"], {})[run["round"]] = derive(run, limits[run["round"]])
    algorithms: dict[str, Any] = {}
    for (algorithm, name), by_variant in rows.items():
        algorithms.setdefault(algorithm, {})[name] = summarize_row(by_variant)
    return {"matrix_limit_gflops": summary(list(limits.values())), "algorithms": algorithms}


def describe_machine() -> dict[str, Any]:
    """This machine, and whether it has AVX-512."""
    cpuinfo = Path("/proc/cpuinfo")
    return {**machine(), "avx512": cpuinfo.exists() and "avx512f" in cpuinfo.read_text("utf-8").split()}


def save(runs: list[Run], versions: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Write the runs that have finished so far."""
    data = {
        "command": " ".join(["python -m benchmarks.speed.learner", *(_without_folder(item) for item in sys.argv[1:])]),
        "machine": describe_machine(),
        "versions": versions,
        "steps": arguments.steps,
        "operations": {
            name: {"without": operations(name), "batchnorm": operations(name, True)} for name in ENVIRONMENTS
        },
        **summarize(runs),
        "runs": runs,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(data, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", nargs="+", default=list(ENVIRONMENTS), choices=ENVIRONMENTS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000, help="gradient steps that are timed in each process")
    parser.add_argument("--sbx-python", type=Path, help="an interpreter that has sbx; without it, uv installs sbx")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def load(arguments: argparse.Namespace) -> tuple[list[Run], dict[str, Any]]:
    """Runs and versions in the file, if there is one."""
    if not arguments.out.exists():
        return [], {}
    data = json.loads(arguments.out.read_text("utf-8"))
    here = {"steps": arguments.steps, "machine": describe_machine()}
    if any(data[name] != value for name, value in here.items()):
        raise SystemExit(f"{arguments.out} has other steps or another machine. Use the same, or another file.")
    return data["runs"], data["versions"]


def _without_folder(argument: str) -> str:
    """An argument without the folders of this machine."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def main() -> None:
    """Run what is not in the file yet, in turn."""
    arguments = parse()
    runs, versions = load(arguments)
    jobs = [job for i in range(arguments.rounds) for job in list_jobs(arguments.algorithms, arguments.variants, i)]
    for job in jobs:
        if any(job.items() <= run.items() for run in runs):
            continue
        run = measure(job, arguments.steps, arguments.sbx_python)
        versions[job["variant"]] = run.pop("versions")
        runs.append(run)
        print(run, flush=True)
        save(runs, versions, arguments)
    save(runs, versions, arguments)


if __name__ == "__main__":
    main()
