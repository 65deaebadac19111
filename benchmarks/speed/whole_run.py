"""A whole transfer, from the start of the process to its end: plain Stable-Baselines3 beside daft_rl.

    python benchmarks/speed/whole_run.py --out benchmarks/results/speed_whole_run.json

All load the shipped Ant source, play it in target and source (20 episodes each), fine-tune it with the same settings
for as many steps, play it in between (5 episodes each on both; daft_rl also before the first step), play it again, and
save it. daft_rl measures distortion and keeps its best policy besides. Plain SB3 steps
``DummyVecEnv`` or ``SubprocVecEnv`` and plays with ``evaluate_policy`` in the same; it does what the method ``ft_eval``
says, and daft_rl its default, which converts BatchNorm besides. Variants take turns, each in a process of its own;
after the first seed the slower of the two plain ones is left out. What stands in the file already is not run again.
Times are of whole processes; ``seconds_to_return`` are those until the first evaluation in between that reaches
``ENOUGH`` on the target. Memory is the peak of the process without its workers.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

from daft_rl.run.results import machine

TASK, SOURCE = "Ant-shifted", "Ant"
PLAIN = ("dummy", "subproc")
VARIANTS = (*PLAIN, "daft_rl")
NUM_ENVS, EVERY, EPISODES, EPISODES_DURING = 16, 50_000, 20, 5
ENOUGH = 2500.0
"""A return on the target; the policy begins at 800, and ends at 3100."""
STARTED = time.time()


def since_start(curve: list[tuple[float, float]]) -> list[list[float]]:
    """Seconds from the start of this process, and returns."""
    return [[round(when - STARTED, 1), round(found, 1)] for when, found in curve]


def plain(vec: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """The run as one would write it with SB3 alone."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.utils import set_random_seed
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecMonitor, VecNormalize

    from daft_rl.archives import find_agent
    from daft_rl.envs import make

    torch.set_num_threads(1)
    set_random_seed(seed)
    archive = find_agent(SOURCE, "ppo")

    def batch(task: str, size: int) -> VecEnv:
        makers = [lambda: make(task)] * size
        return VecMonitor(DummyVecEnv(makers) if vec == "dummy" else SubprocVecEnv(makers, start_method="forkserver"))

    def normalized(venv: VecEnv, reward: bool) -> VecNormalize:
        venv = VecNormalize.load(str(archive.with_name("vecnormalize.pkl")), venv)
        venv.training, venv.norm_reward = False, reward
        return venv

    training = normalized(batch(TASK, NUM_ENVS), reward=True)
    settings = {
        "n_steps": 128,
        "batch_size": 256,
        "learning_rate": lambda remaining: 3e-4 * 0.5 * (1 + math.cos(math.pi * (1 - remaining))),
    }
    model = PPO.load(archive, env=training, device="cpu", **settings)
    model.set_random_seed(seed)
    model.policy.log_std.data.clamp_(min=math.log(0.2))
    for module in model.policy.modules():
        if isinstance(module, torch.nn.BatchNorm1d):  # PPO.train() would put it into training mode
            module.eval().train = lambda mode=True, module=module: module  # type: ignore[method-assign, misc]
    envs = {
        name: normalized(batch(task, EPISODES_DURING), reward=False)
        for name, task in {"target": TASK, "source": SOURCE}.items()
    }

    def play(episodes: int) -> dict[str, float]:
        for env in envs.values():
            env.seed(10_000)
        return {name: float(evaluate_policy(model, env, episodes)[0]) for name, env in envs.items()}

    before = play(EPISODES)
    model.set_logger(configure(str(folder / "tensorboard"), ["tensorboard"]))
    curve: list[tuple[float, float]] = []

    class Noted(BaseCallback):
        """Called after an evaluation on the target."""

        def _on_step(self) -> bool:
            curve.append((time.time(), float(self.parent.last_mean_reward)))  # type: ignore[union-attr]
            return True

    during: list[BaseCallback] = [
        EvalCallback(
            env,
            n_eval_episodes=EPISODES_DURING,
            eval_freq=EVERY // NUM_ENVS,
            callback_after_eval=Noted() if name == "target" else None,
            verbose=0,
        )
        for name, env in envs.items()
    ]
    model.learn(steps, callback=during)
    after = play(EPISODES)
    for module in model.policy.modules():
        module.__dict__.pop("train", None)
    model.save(folder / "final.zip")
    for env in (training, *envs.values()):
        env.close()
    return {"before": before, "after": after, "curve": since_start(curve)}


def ours(seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """The same by daft_rl."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from daft_rl.transfer import transfer

    result = transfer(TASK, total_timesteps=steps, seed=seed, output_dir=folder, overrides=["progress_bar=false"])
    logged = EventAccumulator(str(folder / "tensorboard")).Reload().Scalars("eval/target_return")
    return {
        "curve": since_start([(point.wall_time, point.value) for point in logged]),
        "before": {name: returns.mean for name, returns in result.zero_shot.items()},
        "after": {name: returns.mean for name, returns in result.final.items()},
        "phases": {phase: round(seconds, 1) for phase, seconds in result.phases.items()},
    }


def run_one(variant: str, seed: int, steps: int) -> dict[str, Any]:
    """In this process."""
    with tempfile.TemporaryDirectory() as folder:
        function = ours if variant == "daft_rl" else lambda *arguments: plain(variant, *arguments)
        found = function(seed, steps, Path(folder))
    return found | {"peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def timed(variant: str, seed: int, steps: int) -> dict[str, Any]:
    """In a process of its own."""
    command = [sys.executable, __file__, "--one", variant, "--seeds", str(seed), "--steps", str(steps)]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - started
    return {"variant": variant, "seed": seed, "seconds": round(seconds, 1)} | json.loads(done.stdout.splitlines()[-1])


def summary(values: list[float]) -> dict[str, float]:
    return {"median": round(median(values), 2), "min": round(min(values), 2), "max": round(max(values), 2)}


def best_plain(runs: list[dict[str, Any]]) -> str:
    """Which ``VecEnv`` of Stable-Baselines3 was faster."""
    return min(PLAIN, key=lambda variant: median(run["seconds"] for run in runs if run["variant"] == variant))


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds by variant, returns, and how many times faster daft_rl is than the faster of the plain ones."""

    def column(variant: str, key: str) -> list[Any]:
        return [run[key] for run in runs if run["variant"] == variant]

    def reached(variant: str) -> list[float]:
        times = [[when for when, found in curve if found >= ENOUGH] for curve in column(variant, "curve")]
        return [found[0] for found in times if found]

    best = best_plain(runs)
    seconds = {(run["variant"], run["seed"]): run["seconds"] for run in runs}
    ratios = [seconds[best, seed] / taken for (variant, seed), taken in seconds.items() if variant == "daft_rl"]
    return {
        "seconds": {variant: summary(column(variant, "seconds")) for variant in VARIANTS},
        "seconds_to_return": {v: {**summary(reached(v)), "reached": len(reached(v))} for v in VARIANTS if reached(v)},
        "target": {v: round(mean(after["target"] for after in column(v, "after")), 1) for v in VARIANTS},
        "peak_mib": {variant: max(column(variant, "peak_mib")) for variant in VARIANTS},
        "best_plain": best,
        "times_faster": summary(ratios),
    }


def main() -> None:
    """Run variants in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", choices=VARIANTS, help="run this one here for the first seed, print JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_one(arguments.one, arguments.seeds[0], arguments.steps)))
        return
    runs = json.loads(arguments.out.read_text())["runs"] if arguments.out and arguments.out.exists() else []
    for seed in arguments.seeds:
        for variant in VARIANTS if seed == arguments.seeds[0] else (best_plain(runs), "daft_rl"):
            if (variant, seed) not in {(run["variant"], run["seed"]) for run in runs}:
                runs.append(timed(variant, seed, arguments.steps))
                print(runs[-1], flush=True)
                save(runs, arguments)
    save(runs, arguments)
    print(json.dumps(summarize(runs)))


def save(runs: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Write what is known so far."""
    complete = {run["variant"] for run in runs} == set(VARIANTS)
    data = {
        "command": " ".join(["python benchmarks/speed/whole_run.py", *sys.argv[1:]]),
        "machine": machine(),
        "steps": arguments.steps,
        **(summarize(runs) if complete else {}),
        "runs": runs,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
