"""Measure worlds on a graphics card: equality, steps per second, learning; and plain SB3 on the same machine.

    python benchmarks/speed/cuda.py prepare --folder FOLDER
    python benchmarks/speed/cuda.py measure --folder FOLDER --out benchmarks/results/speed_cuda.json

``prepare`` runs where all simulators are installed. It writes what the simulators know of each task, and references:
the states, actions, observations and rewards of a few worlds on the CPU. ``measure`` needs the folder, a card, and
neither robosuite nor Safety-Gymnasium. With ``--device cpu`` it does the same in small, which tests that it runs.

Each part runs in a process of its own, so that one that fails costs no other. Its results are in the file as soon as it
ends. Parts that are in the file are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TASKS = ("Ant-shifted", "HalfCheetah-shifted", "SafetyPointGoal-shifted", "Door-shifted", "Wipe-shifted")
REFERENCE_WORLDS, REFERENCE_STEPS = 16, 50
WORLDS = {"Door-shifted": (2048, 8192), "Wipe-shifted": (2048, 8192)}
MANY_WORLDS = (4096, 32768)
PROGRAM_SECONDS = 230.0
Result = dict[str, Any]


# -- before: on the machine with the simulators ---------------------------------------------------


def prepare(folder: Path) -> None:
    """Write blueprints and references of every task."""
    import torch

    from daft_rl.envs import read_shift
    from daft_rl.envs.cuda.build import make_blueprints, worlds_from
    from daft_rl.envs.randomization import draw_shifts

    folder.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        blueprints = make_blueprints(task, draw_shifts(read_shift(task), 1))
        worlds = worlds_from(task, blueprints, REFERENCE_WORLDS, device="cpu", seed=0)
        worlds.reset()
        low, high = (torch.as_tensor(bound) for bound in (worlds.action_space.low, worlds.action_space.high))
        state, steps = worlds.state_dict(), []
        for _ in range(REFERENCE_STEPS):
            action = low + (high - low) * torch.rand((worlds.num_worlds, *low.shape), generator=worlds.generator)
            step = worlds.step(action)
            steps.append([part.numpy().copy() for part in (action, step.final_observation, step.reward, step.done)])
        with (folder / f"{task}.pickle").open("wb") as file:
            pickle.dump({"blueprints": blueprints, "state": state, "steps": steps}, file)
        print(task, "prepared", flush=True)


def load_worlds(folder: Path, task: str, num_worlds: int, device: str) -> tuple[Any, Any]:
    """Worlds of a prepared task, and the reference."""
    from daft_rl.envs.cuda.build import worlds_from

    with (folder / f"{task}.pickle").open("rb") as file:
        prepared = pickle.load(file)
    return worlds_from(task, prepared["blueprints"], num_worlds, device=device, seed=0), prepared


# -- parts ----------------------------------------------------------------------------------------


def synchronize(device: str) -> None:
    """Wait for the device."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize()


def equality(folder: Path, device: str, task: str) -> Result:
    """Replay the reference's actions from its state: with the captured graph, again, and without it."""
    import torch

    from daft_rl.envs.cuda.physics import Physics

    played: dict[str, list[list[np.ndarray[Any, Any]]]] = {}
    started = time.perf_counter()
    for name in ("captured", "again", "eager"):
        Physics.capture = name != "eager"
        worlds, prepared = load_worlds(folder, task, REFERENCE_WORLDS, device)
        worlds.reset()
        worlds.load_state_dict(prepared["state"])
        steps = [worlds.step(torch.as_tensor(action, device=device)) for action, *_ in prepared["steps"]]
        worlds.check()
        played[name] = [[part.cpu().numpy().copy() for part in (s.final_observation, s.reward, s.done)] for s in steps]
    reference = [step[1:] for step in prepared["steps"]]
    pairs = {"reference": reference, "again": played["again"], "eager": played["eager"]}
    return {
        "seconds": time.perf_counter() - started,
        **{name: differences(played["captured"], other) for name, other in pairs.items()},
    }


def differences(steps: list[Any], others: list[Any]) -> Result:
    """Differences of observations and rewards after 1, 10 and 50 steps; of worlds whose episodes have not ended."""
    alive = np.ones(len(steps[0][1]), bool)
    result: Result = {}
    for number, (step, other) in enumerate(zip(steps, others, strict=True), start=1):
        if number in (1, 10, 50):
            gaps = np.abs(step[0] - other[0])[alive], np.abs(step[1] - other[1])[alive]
            result[f"after_{number}"] = {
                "observation_median": float(np.median(gaps[0])),
                "observation_largest": float(gaps[0].max(initial=0.0)),
                "reward_median": float(np.median(gaps[1])),
                "reward_largest": float(gaps[1].max(initial=0.0)),
                "worlds": int(alive.sum()),
            }
        alive &= ~(step[2] | other[2])
    return result


def throughput(folder: Path, device: str, task: str) -> Result:
    """Steps per second of random actions: whole steps, and the simulation alone."""
    import torch

    rows = []
    for count in WORLDS.get(task, MANY_WORLDS) if device != "cpu" else (4,):
        built = time.perf_counter()
        worlds, _ = load_worlds(folder, task, count, device)
        worlds.reset()
        low, high = (
            torch.as_tensor(bound, device=device) for bound in (worlds.action_space.low, worlds.action_space.high)
        )
        actions = low + (high - low) * torch.rand((8, count, *low.shape), device=device)
        for action in actions:
            worlds.step(action)
        synchronize(device)
        built = time.perf_counter() - built
        steps, started = 0, time.perf_counter()
        while time.perf_counter() - started < (2.5 if device != "cpu" else 0.5):
            for action in actions:
                worlds.step(action)
            steps += len(actions)
            synchronize(device)
        seconds = time.perf_counter() - started
        worlds.check()
        free, total = torch.cuda.mem_get_info() if device != "cpu" else (0, 0)
        rows.append(
            {
                "worlds": count,
                "steps_per_second": round(count * steps / seconds),
                "milliseconds_per_step": 1000 * seconds / steps,
                "seconds_to_build": built,
                "gigabytes": (total - free) / 2**30,
                "profile": profile_step(worlds, actions[0], device),
            }
        )
        print(task, rows[-1], flush=True)
        del worlds
    return {"rows": rows}


def profile_step(worlds: Any, action: Any, device: str) -> Result:
    """Milliseconds of a step on the device and of its launches on the host, and the number of kernels."""
    from torch.profiler import ProfilerActivity, profile

    synchronize(device)
    started = time.perf_counter()
    worlds.step(action)
    host = time.perf_counter() - started
    synchronize(device)
    whole = time.perf_counter() - started
    result: Result = {"host_milliseconds": 1000 * host, "milliseconds": 1000 * whole}
    if device == "cpu":
        return result
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        worlds.step(action)
        synchronize(device)
    events = sorted(profiler.key_averages(), key=lambda event: -event.device_time_total)
    result["kernels"] = sum(event.count for event in events)
    result["most_expensive"] = [[e.key[:80], round(e.device_time_total / 1000, 3), e.count] for e in events[:12]]
    return result


def transfer_run(folder: Path, device: str, task: str, *overrides: str) -> Result:
    """A whole transfer by the command line. Returns are played in C MuJoCo."""
    small = ["num_envs=4", "total_timesteps=512", "evaluation.episodes=1", "evaluation.episodes_during=1"]
    fixed = [f"env={task}", "method=daft", "vec=cuda", f"device={device}"]
    return program("daft_rl.transfer", [*fixed, *overrides, *(small if device == "cpu" else [])])


def source_run(folder: Path, device: str, task: str, *overrides: str) -> Result:
    """Train a source by the command line."""
    small = ["num_envs=4", "total_timesteps=512", "evaluation.episodes=1", "evaluation.episodes_during=1"]
    arguments = [f"env={task}", "vec=cuda", f"device={device}", *overrides, *(small if device == "cpu" else [])]
    return program("daft_rl.pretrain", arguments)


def program(module: str, arguments: list[str]) -> Result:
    """Run one of our programs, stop it if it takes too long, and read what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", module, *arguments, f"output_dir={folder}/run"]
        started = time.perf_counter()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_SECONDS)
            error = done.stderr[-2000:]
        except subprocess.TimeoutExpired:
            error = f"stopped after {PROGRAM_SECONDS} s"
        seconds = time.perf_counter() - started
        path = Path(folder, "run")
        found = json.loads(path.read_text()) if path.exists() else {"error": error}
        found.pop("distortion", None)
        episodes = learning_curve(Path(folder, "run", "monitor.csv"))
        return {"command": command[1:], "seconds": seconds, "results": found, "training_episodes": episodes}


def learning_curve(table: Path) -> list[list[float]]:
    """Seconds since the start and mean return of the training episodes, in at most 40 groups."""
    lines = table.read_text().splitlines()[2:] if table.exists() else []
    rows = [line.split(",")[:3] for line in lines]
    values = np.array([[float(row[2]), float(row[0])] for row in rows if len(row) == 3])
    if not len(values):
        return []
    return [[round(float(x), 2) for x in group.mean(0)] for group in np.array_split(values, 40) if len(group)]


def plain_sb3(folder: Path, device: str, task: str) -> Result:
    """Steps per second of plain SB3 while PPO learns, with the engines that it can use on these processors."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    from daft_rl.envs import make
    from daft_rl.envs.batch.threads import ThreadedMujocoVecEnv

    cores, result = os.cpu_count() or 1, {}
    count = 64 if device != "cpu" else 2
    makers = [lambda: make(task)] * count
    engines: dict[str, Callable[[], Any]] = {
        "DummyVecEnv": lambda: DummyVecEnv(makers),
        f"SubprocVecEnv({cores})": lambda: SubprocVecEnv(makers[:cores]),
        "our threads": lambda: ThreadedMujocoVecEnv(makers),
    }
    for name, make_engine in engines.items():
        venv = make_engine()
        model = PPO(
            "MlpPolicy",
            venv,
            n_steps=32,
            batch_size=256,
            n_epochs=5,
            device="cpu",
            policy_kwargs={"net_arch": [128, 128]},
        )
        steps = 32 * venv.num_envs
        model.learn(steps)
        rounds, started = 0, time.perf_counter()
        while time.perf_counter() - started < (5.0 if device != "cpu" else 0.1):
            model.learn(steps, reset_num_timesteps=False)
            rounds += 1
        result[name] = {
            "steps_per_second": round(rounds * steps / (time.perf_counter() - started)),
            "envs": venv.num_envs,
        }
        venv.close()
        print(name, result[name], flush=True)
    return result


def updates(folder: Path, device: str, task: str) -> Result:
    """Gradient steps of off-policy algorithms: SB3's and ours."""
    script = Path(__file__).with_name("cuda_updates.py")
    small = ["--steps", "2", "--batch-sizes", "16"] if device == "cpu" else []
    with tempfile.TemporaryDirectory() as out:
        path = Path(out, "updates.json")
        subprocess.run([sys.executable, str(script), "--device", device, "--out", str(path), *small], check=True)
        return dict(json.loads(path.read_text()))


PARTS: dict[str, Callable[..., Result]] = {
    "equality": equality,
    "throughput": throughput,
    "updates": updates,
    "plain_sb3": plain_sb3,
    "transfer": transfer_run,
    "source": source_run,
}


# -- the whole ------------------------------------------------------------------------------------


def plan() -> list[tuple[list[list[str]], float]]:
    """The parts, in groups that run at the same time, with each group's limit in seconds.

    Equality runs at once for all tasks, since it waits for the host most of the time.
    """
    together = [["equality", task] for task in TASKS]
    throughputs = [([["throughput", task]], 60.0) for task in TASKS]
    return [
        *throughputs,
        ([["transfer", "Ant-shifted"]], 120.0),
        ([["transfer", "HalfCheetah-shifted", "algo=sac", "total_timesteps=300_000"]], 60.0),
        (together, 90.0),
        ([["plain_sb3", "Ant-shifted"]], 50.0),
        ([["source", "Ant"]], 250.0),
        ([["updates", ""]], 60.0),
    ]


def run_group(parts: list[list[str]], limit: float, arguments: argparse.Namespace) -> dict[str, Result]:
    """Run parts side by side, each in a process, and collect what they print last."""
    processes = {}
    for part in parts:
        command = [sys.executable, __file__, "part", *part[:2], *part[2:], "--folder", str(arguments.folder)]
        command += ["--device", arguments.device]
        processes[" ".join(part).strip()] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    results = {}
    until = time.monotonic() + limit
    for name, process in processes.items():
        try:
            output, _ = process.communicate(timeout=max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            print(f"{name}: stopped after {limit} s\n{output[-2000:]}", flush=True)
            results[name] = {"error": f"stopped after {limit} s", "output": output[-2000:]}
            continue
        *printed, last = output.strip().splitlines() or [""]
        print(name, *printed[-8:], sep="\n", flush=True)
        try:
            results[name] = json.loads(last)
        except ValueError:
            results[name] = {"error": f"exit code {process.returncode}", "output": output[-2000:]}
    return results


def measure(arguments: argparse.Namespace) -> None:
    """Run every part that is not in the file, until the time is up."""
    import torch

    started = time.monotonic()
    out = Path(arguments.out)
    found = json.loads(out.read_text()) if out.exists() else {"parts": {}}
    if arguments.device != "cpu":
        properties = torch.cuda.get_device_properties(0)
        found["card"] = {"name": properties.name, "gigabytes": round(properties.total_memory / 2**30, 1)}
    found["machine"] = {"cores": os.cpu_count(), "python": sys.version.split()[0], "torch": torch.__version__}
    for parts, limit in plan():
        chosen = [part for part in parts if not arguments.only or part[0] in arguments.only.split(",")]
        chosen = [part for part in chosen if not arguments.tasks or part[1] in arguments.tasks.split(",")]
        chosen = [part for part in chosen if " ".join(part).strip() not in found["parts"]]
        left = 60 * arguments.minutes - (time.monotonic() - started)
        if not chosen or left < 10:
            continue
        found["parts"] |= run_group(chosen, min(limit, left), arguments)
        out.write_text(json.dumps(found, indent=1) + "\n")
        print(f"-- {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    """Read the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("action", choices=("prepare", "measure", "part"))
    parser.add_argument("part", nargs="*", help="name of the part, task, and settings of the program")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", default="speed_cuda.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default="", help="names of parts, separated by commas")
    parser.add_argument("--tasks", default="", help="tasks, separated by commas")
    parser.add_argument("--minutes", type=float, default=8.0)
    arguments = parser.parse_args()
    if arguments.action == "prepare":
        prepare(arguments.folder)
    elif arguments.action == "measure":
        measure(arguments)
    else:
        name, task, *overrides = [*arguments.part, ""][: max(2, len(arguments.part))]
        print(json.dumps(PARTS[name](arguments.folder, arguments.device, task, *overrides)))


if __name__ == "__main__":
    main()
