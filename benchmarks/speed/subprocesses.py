"""Our worker processes against Stable-Baselines3's ``SubprocVecEnv``, with the same environments inside.

    OMP_NUM_THREADS=1 python benchmarks/speed/subprocesses.py --out benchmarks/results/speed_subprocesses.json

``workers`` is our ``WorkerVecEnv``: one process per core, and each steps its share of the environments. ``spawn`` and
``forkserver`` are ``SubprocVecEnv`` with these start methods: one process per environment. ``forkserver_preloaded``
also imports the environments and Stable-Baselines3 once, in the server that all its processes are forked from.

For each task the script measures, in rounds in which the engines take turns:

- ``start``: seconds and memory until every batch of a run has made its first step. A run has a batch of 16
  environments to learn in, and two of 5 to evaluate in. Each start happens in a new interpreter. Memory is the
  proportional set size (PSS) of all processes together.
- ``steps``: environment steps per second of the batch of 16. How its processes were started makes no difference here,
  so one kind of ``SubprocVecEnv`` is enough. Both engines take the same actions from the same seeds, and the script
  checks that they earn the same rewards.
- ``run``: seconds of a run of ``--run-steps`` steps that follow from these two numbers. Updates and evaluations are
  not counted, because they take equally long with every engine.

A ratio is the time of an engine divided by the time of ``workers`` in the same round: above 1, ours is faster. On a
busy machine, compare ``cpu_seconds``, the processor time of all processes together: other programs take less from 16
processes than from 2, so that times by the clock favor ``SubprocVecEnv``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # processes that are spawned import this module: it must stay light
    from stable_baselines3.common.vec_env import VecEnv

TASKS = {"SafetyPointGoal": 600, "Door": 60, "Wipe": 60}
"""Steps of the batch per round: about two seconds on two cores."""
ENGINES = ("workers", "spawn", "forkserver", "forkserver_preloaded")
EVALUATION_BATCHES = (5, 5)
WARM_UP = 5
"""Steps of the batch that are not timed: simulators compile code in the first ones."""


def open_batch(engine: str, task: str, num_envs: int) -> VecEnv:
    """Start a batch of environments."""
    from stable_baselines3.common.vec_env import SubprocVecEnv

    from daft_rl.envs import make, make_vec

    if engine == "workers":
        return make_vec(task, num_envs, vec="workers")
    if engine == "forkserver_preloaded":
        multiprocessing.set_forkserver_preload(["stable_baselines3.common.vec_env.subproc_vec_env", "daft_rl.envs"])
    return SubprocVecEnv([partial(make, task)] * num_envs, start_method=engine.partition("_")[0])


def draw_actions(venv: VecEnv, steps: int) -> Any:
    """Uniform actions of the batch, array ``(steps, num_envs, *action_space.shape)``."""
    import numpy as np

    size = (steps, venv.num_envs, *(venv.action_space.shape or ()))
    return np.random.default_rng(0).uniform(-1, 1, size).astype(np.float32)


def descendants(pid: int) -> list[int]:
    """A process and all processes that it or they have started."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stat = path.read_text()
        except OSError:  # it has ended
            continue
        parents[int(path.parent.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [pid]
    for ancestor in found:  # grows while it is read
        found += [child for child, parent in parents.items() if parent == ancestor]
    return found


def memory_mib(pid: int) -> float:
    """Proportional set size of a process and its descendants."""
    total = 0
    for found in descendants(pid):
        for line in Path(f"/proc/{found}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def cpu_seconds(pid: int) -> float:
    """Processor time that a process and its descendants have used so far."""
    ticks = 0
    for found in descendants(pid):
        user, system = Path(f"/proc/{found}/stat").read_text().rpartition(")")[2].split()[11:13]
        ticks += int(user) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK")


def measure_start(engine: str, task: str, num_envs: int) -> dict[str, float]:
    """Start the batches of a run and make one step in each."""
    from daft_rl.envs import make_vec

    make_vec(task, 1, vec="dummy").close()  # imports and compiled code of this process, which every engine needs
    started, used = time.perf_counter(), cpu_seconds(os.getpid())
    with ExitStack() as stack:
        batches = []
        for size in (num_envs, *EVALUATION_BATCHES):
            venv = stack.enter_context(closing(open_batch(engine, task, size)))
            venv.seed(0)
            venv.reset()
            venv.step(draw_actions(venv, 1)[0])
            batches.append(time.perf_counter() - started)
        memory, used = memory_mib(os.getpid()), cpu_seconds(os.getpid()) - used
    return {"first_batch_seconds": batches[0], "seconds": batches[-1], "cpu_seconds": used, "mib": memory}


def step_batch(venv: VecEnv, actions: Any) -> tuple[dict[str, float], float]:
    """Time per step of an environment, and the sum of all rewards."""
    venv.seed(0)
    venv.reset()
    total, started, used = 0.0, time.perf_counter(), cpu_seconds(os.getpid())
    for action in actions:
        total += float(venv.step(action)[1].astype("float32").sum())
    seconds, used = time.perf_counter() - started, cpu_seconds(os.getpid()) - used
    steps = actions.shape[0] * actions.shape[1]
    return {"seconds": seconds / steps, "cpu_seconds": used / steps}, total


def measure_steps(
    task: str, engines: list[str], num_envs: int, steps: int, rounds: int
) -> list[dict[str, dict[str, float]]]:
    """Time per step by engine, one dictionary per round.

    :raises RuntimeError: the engines earned different rewards, so they did different work
    """
    with ExitStack() as stack:
        batches = {name: stack.enter_context(closing(open_batch(name, task, num_envs))) for name in engines}
        actions = draw_actions(batches["workers"], steps)
        for venv in batches.values():
            step_batch(venv, actions[:WARM_UP])
        found = []
        for number in range(rounds):
            results = {name: step_batch(batches[name], actions) for name in rotated(engines, number)}
            rewards = {name: total for name, (_, total) in results.items()}
            if len(set(rewards.values())) > 1:
                raise RuntimeError(f"The engines did different work: they earned {rewards}.")
            found.append({name: times for name, (times, _) in results.items()})
    return found


def rotated(names: list[str], by: int) -> list[str]:
    """The names in another order in each round, so that no engine is always the first."""
    first = by % len(names)
    return names[first:] + names[:first]


def in_new_interpreter(part: str, task: str, engines: list[str], arguments: argparse.Namespace) -> Any:
    """Run one part of the measurement in a process of its own."""
    command = [sys.executable, __file__, "--part", part, "--tasks", task, "--engines", *engines]
    command += ["--num-envs", str(arguments.num_envs), "--step-rounds", str(arguments.step_rounds)]
    command += [] if arguments.steps is None else ["--steps", str(arguments.steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float], digits: int = 2) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median": round(median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


Rounds = list[dict[str, dict[str, float]]]
"""Per round: engine -> name of a number -> number."""


def ratios(rounds: Rounds, engine: str, name: str) -> dict[str, float]:
    """A number of an engine divided by that of ``workers`` in the same round."""
    return spread([one[engine][name] / one["workers"][name] for one in rounds])


def summarize_starts(starts: Rounds) -> dict[str, dict[str, dict[str, float]]]:
    """Each engine's numbers of :func:`measure_start`, and its ratios."""
    return {
        engine: {
            **{name: spread([one[engine][name] for one in starts], 1) for name in starts[0][engine]},
            "ratio": ratios(starts, engine, "seconds"),
            "cpu_ratio": ratios(starts, engine, "cpu_seconds"),
        }
        for engine in starts[0]
    }


def summarize(starts: Rounds, steps: Rounds, run_steps: int) -> dict[str, Any]:
    """What the rounds of a task say.

    :param starts: results of :func:`measure_start`
    :param steps: results of :func:`measure_steps`
    :param run_steps: steps of a run
    """
    start = summarize_starts(starts)
    step = {
        engine: {
            "per_second": spread([1 / one[engine]["seconds"] for one in steps], 0),
            "per_cpu_second": spread([1 / one[engine]["cpu_seconds"] for one in steps], 0),
            "ratio": ratios(steps, engine, "seconds"),
            "cpu_ratio": ratios(steps, engine, "cpu_seconds"),
        }
        for engine in steps[0]
    }
    stepped = next(engine for engine in step if engine != "workers")
    per_second = {engine: step["workers" if engine == "workers" else stepped]["per_second"] for engine in start}
    runs = {engine: start[engine]["seconds"]["median"] + run_steps / per_second[engine]["median"] for engine in start}
    return {
        "start": start,
        "steps": step,
        "run": {
            engine: {"seconds": round(taken), "ratio": round(taken / runs["workers"], 2)}
            for engine, taken in runs.items()
        },
    }


def measure_task(task: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All measurements of a task, and the numbers of each round."""
    rates = in_new_interpreter("steps", task, ["workers", arguments.engines[-1]], arguments)
    print(task, rates, flush=True)
    starts = []
    for number in range(arguments.rounds):
        order = rotated(arguments.engines, number)
        starts.append({engine: in_new_interpreter("start", task, [engine], arguments) for engine in order})
        print(task, starts[-1], flush=True)
    found = summarize(starts, rates, arguments.run_steps)
    print(task, json.dumps(found), flush=True)
    return found | {"rounds": {"start": starts, "steps": rates}}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3, help="of starts")
    parser.add_argument("--step-rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, help="of the batch, per round")
    parser.add_argument("--run-steps", type=int, default=40_000, help="environment steps of the run that is estimated")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", choices=("start", "steps"), help="measure only this, here, and print JSON")
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=ENGINES,
        default=list(ENGINES),
        help="steps are measured with workers and the last",
    )
    arguments = parser.parse_args()
    if arguments.part == "start":
        print(json.dumps(measure_start(arguments.engines[0], arguments.tasks[0], arguments.num_envs)))
        return
    if arguments.part == "steps":
        task, *_ = arguments.tasks
        steps = arguments.steps or TASKS[task]
        print(json.dumps(measure_steps(task, arguments.engines, arguments.num_envs, steps, arguments.step_rounds)))
        return
    from daft_rl.files import write_json
    from daft_rl.run.results import machine

    data: dict[str, Any] = {
        "command": " ".join(["OMP_NUM_THREADS=1 python benchmarks/speed/subprocesses.py", *sys.argv[1:]]),
        "machine": machine(),
        "num_envs": [arguments.num_envs, *EVALUATION_BATCHES],
        "run_steps": arguments.run_steps,
        "load_average": [list(os.getloadavg())],
        "tasks": {},
    }
    for task in arguments.tasks:
        data["tasks"][task] = measure_task(task, arguments)
        data["load_average"].append(list(os.getloadavg()))
        if arguments.out is not None:
            write_json(arguments.out, data)


if __name__ == "__main__":
    main()
