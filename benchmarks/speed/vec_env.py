"""Compare the speed of batch engines with that of the bare physics.

    uv run --with envpool python benchmarks/speed/vec_env.py
    python benchmarks/speed/vec_env.py --tasks Ant --num-envs 1 4 16 64 256 --threads 1 2 --out FILE

Every engine takes the same actions from the same seeds, so all do the same work. The script checks this by the sum of
rewards, except for EnvPool, which has its own simulator. "physics" is the upper limit for our engines: the same threads
step the same models and reset at the same steps, but they compute no observations or rewards, and never wait for each
other. Engines take turns within a round, and ratios are taken within a round, because other programs may share the
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from daft_rl.envs import make
from daft_rl.envs.batch.threads import ThreadedMujocoVecEnv

RESULTS = Path(__file__).parents[1] / "results" / "speed_vec_env.json"
VERSIONS_OF = ("gymnasium", "mujoco", "numpy", "stable-baselines3", "torch", "envpool")


@dataclass
class Workload:
    """The work of all engines: ``actions[t, i]`` for environment ``i``, which starts from seed ``i``."""

    task: str
    actions: NDArray[np.float32]
    dones: NDArray[np.bool_]
    total_reward: float

    @property
    def num_envs(self) -> int:
        return self.actions.shape[1]


def draw_workload(task: str, num_envs: int, steps: int) -> Workload:
    """Draw actions, and play them once to find where episodes end."""
    venv = DummyVecEnv([lambda: make(task)] * num_envs)
    space = venv.action_space
    assert isinstance(space, gym.spaces.Box)
    size = (steps, num_envs, *space.shape)
    actions = np.random.default_rng(0).uniform(space.low, space.high, size).astype(np.float32)
    venv.seed(0)
    venv.reset()
    played = [venv.step(action) for action in actions]
    venv.close()
    dones = np.array([done for _, _, done, _ in played])
    return Workload(task, actions, dones, float(sum(rewards.sum() for _, rewards, _, _ in played)))


def step_engine(venv: VecEnv, work: Workload) -> float:
    venv.seed(0)
    venv.reset()
    total, start = 0.0, time.perf_counter()
    for action in work.actions:
        total += venv.step(action)[1].astype(np.float32).sum()  # only SubprocVecEnv does not round rewards
    seconds = time.perf_counter() - start
    if total != work.total_reward:
        raise RuntimeError(
            f"{type(venv).__name__} did other work: its rewards sum to {total}, not {work.total_reward}."
        )
    return seconds


def step_physics(envs: list[gym.Env[Any, Any]], work: Workload, num_threads: int) -> float:
    for i, env in enumerate(envs):
        env.reset(seed=i)
    cores: list[Any] = [env.unwrapped for env in envs]

    def step(share: range) -> None:
        for action, done in zip(work.actions, work.dones, strict=True):
            for i in share:
                cores[i]._step_mujoco_simulation(action[i], cores[i].frame_skip)
                if done[i]:
                    envs[i].reset()

    shares = [range(k, len(envs), num_threads) for k in range(num_threads)]
    threads = [threading.Thread(target=step, args=(share,)) for share in shares[1:]]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    step(shares[0])
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def step_envpool(pool: Any, work: Workload) -> float:
    pool.reset()
    start = time.perf_counter()
    for action in work.actions.astype(np.float64):
        pool.step(action)
    return time.perf_counter() - start


def open_engines(
    work: Workload, num_threads: int, names: list[str], stack: ExitStack
) -> dict[str, Callable[[], float]]:
    """Engines by name. Each is a function that resets, steps, and returns the seconds of the steps.

    :param stack: closes the engines
    """
    fns = [lambda: make(work.task)] * work.num_envs

    def stepper(venv: VecEnv) -> Callable[[], float]:
        stack.callback(venv.close)
        return lambda: step_engine(venv, work)

    found: dict[str, Callable[[], float]] = {}
    if "subproc" in names:  # first, because a process with threads should not fork
        found["subproc"] = stepper(SubprocVecEnv(fns, start_method="fork" if sys.platform == "linux" else "spawn"))
    if "dummy" in names:
        found["dummy"] = stepper(DummyVecEnv(fns))
    if "threads" in names:
        found["threads"] = stepper(ThreadedMujocoVecEnv(fns, num_threads))
    if "physics" in names:
        envs = [fn() for fn in fns]
        found["physics"] = lambda: step_physics(envs, work, num_threads)
    if "envpool" in names and find_spec("envpool"):
        import envpool

        task = work.task if "-v" in work.task else f"{work.task}-v5"
        if task in envpool.list_all_envs():
            pool = envpool.make_gymnasium(task, num_envs=work.num_envs, num_threads=num_threads, seed=0)
            stack.callback(pool.close)
            found["envpool"] = lambda: step_envpool(pool, work)
    return found


def compare_engines(work: Workload, num_threads: int, rounds: int, names: list[str]) -> dict[str, Any]:
    """Steps per second, and the ratios of engines within rounds."""
    count = work.actions.shape[0] * work.num_envs
    with ExitStack() as stack:
        engines = open_engines(work, num_threads, names, stack)
        rates: dict[str, list[float]] = {name: [] for name in engines}
        for i in range(rounds):
            order = list(engines)
            for name in order[i % len(order) :] + order[: i % len(order)]:
                rates[name].append(count / engines[name]())

    def relative(to: str) -> dict[str, Any]:
        return {
            name: summary([a / b for a, b in zip(rates[name], rates[to], strict=True)]) for name in rates if name != to
        }

    return {
        "steps_per_second": {name: summary(values) for name, values in rates.items()},
        "relative_to": {to: relative(to) for to in ("physics", "dummy") if to in rates},
    }


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def describe_machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_average_at_start": list(os.getloadavg()),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in VERSIONS_OF if find_spec(name.replace("-", "_"))},
    }


def show(task: str, result: dict[str, Any]) -> None:
    print(f"\n{result['num_envs']} environments, {result['threads']} threads", end="")
    print(f"\n{task:<12} {'steps/s':>9} {'[min, max]':>18} {'of physics':>11} {'of dummy':>9}")
    for name, rate in result["steps_per_second"].items():
        to = [result["relative_to"].get(base, {}).get(name, {}).get("median", 1.0) for base in ("physics", "dummy")]
        spread = f"[{rate['min']:.0f}, {rate['max']:.0f}]"
        print(f"{name:<12} {rate['median']:>9.0f} {spread:>18} {to[0]:>11.2f} {to[1]:>9.2f}")


def main() -> None:
    engines = ["dummy", "subproc", "threads", "physics", "envpool"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["Ant", "HalfCheetah"])
    parser.add_argument("--engines", nargs="+", default=engines, choices=engines, help="EnvPool only if installed")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[16])
    parser.add_argument("--threads", type=int, nargs="+", default=[os.cpu_count()])
    parser.add_argument("--steps", type=int, default=3200, help="of all environments together, per round and engine")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()

    report: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/speed/vec_env.py", *sys.argv[1:]]),
        "machine": describe_machine(),
        "settings": {"steps": args.steps, "rounds": args.rounds},
        "tasks": {task: [] for task in args.tasks},
    }
    for task, num_envs in product(args.tasks, args.num_envs):
        work = draw_workload(task, num_envs, max(args.steps // num_envs, 20))
        for threads in args.threads:
            result = {
                "num_envs": num_envs,
                "threads": threads,
                **compare_engines(work, threads, args.rounds, args.engines),
            }
            report["tasks"][task].append(result)
            show(task, result)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\nWritten to {args.out}")


if __name__ == "__main__":
    main()
