"""Compare the time of a whole transfer with daft_rl, with plain Stable-Baselines3, and of the same learning with sbx.

    python -m benchmarks.speed.whole_run --out benchmarks/results/speed_whole_run.json

Every variant loads the shipped Ant source, evaluates it on target and source (20 episodes each), fine-tunes it with the
same settings for the same number of steps, evaluates it during learning (5 episodes on each), evaluates it again, and
saves it. daft_rl also evaluates before the first step, measures distortion and keeps its best policy.

Plain SB3 uses ``DummyVecEnv`` or ``SubprocVecEnv`` for learning and evaluation. It does what the method ``ft_eval``
does. daft_rl uses the method ``daft``, which also converts BatchNorm. sbx, SB3's algorithms in JAX, uses the
environments, settings, widths of layers and evaluations of plain SB3. It starts as the same function, but its PPO has
no BatchNorm: the source's layers are folded into their neighbors, which saves it time and changes how it learns.

Variants take turns, each in a new process. After the first seed, the slower of two variants of one library is left out.
Runs that are in the file are not repeated. sbx runs in an environment of its own (``sbx_python.py``).

Networks use one thread. Times are those of whole processes, and include what sbx compiles. ``seconds_to_return`` is the
time until the first evaluation during learning that reaches ``ENOUGH`` on the target. Memory is the peak of the process
without its workers.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from benchmarks.speed.sbx_python import run_module
from daft_rl.run.results import machine

if TYPE_CHECKING:
    from stable_baselines3 import PPO
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecNormalize

TASK, SOURCE = "Ant-shifted", "Ant"
EVALUATED = {"target": TASK, "source": SOURCE}
PLAIN, SBX = ("dummy", "subproc"), ("sbx_dummy", "sbx_subproc")
VARIANTS = (*PLAIN, "daft_rl", *SBX)
NUM_ENVS, EVERY, EPISODES, EPISODES_DURING = 16, 50_000, 20, 5
ENOUGH = 2500.0
"""A return on the target. The policy starts at 800 and ends at 3100."""
STARTED = time.time()


def since_start(curve: list[tuple[float, float]]) -> list[list[float]]:
    """Pairs of seconds since the start of this process and returns."""
    return [[round(when - STARTED, 1), round(found, 1)] for when, found in curve]


class PlainBatches:
    """Environments of a run with SB3 alone, with the observation statistics of the source.

    :param vec: ``dummy`` or ``subproc``
    """

    def __init__(self, vec: str, archive: Path) -> None:
        self.vec, self.statistics = vec, str(archive.with_name("vecnormalize.pkl"))
        self.training = self.open(TASK, NUM_ENVS, normalize_reward=True)
        self.evaluation = {name: self.open(task, EPISODES_DURING) for name, task in EVALUATED.items()}

    def open(self, task: str, size: int, normalize_reward: bool = False) -> VecNormalize:
        """Make one batch."""
        from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

        from daft_rl.envs import make

        makers = [lambda: make(task)] * size
        batch = DummyVecEnv(makers) if self.vec == "dummy" else SubprocVecEnv(makers, start_method="forkserver")
        venv = VecNormalize.load(self.statistics, VecMonitor(batch))
        venv.training, venv.norm_reward = False, normalize_reward
        return venv

    def close(self) -> None:
        """Close all batches."""
        for venv in (self.training, *self.evaluation.values()):
            venv.close()


def evaluate_plain(model: BaseAlgorithm, batches: PlainBatches) -> dict[str, float]:
    """Mean returns over the episodes before and after learning."""
    from stable_baselines3.common.evaluation import evaluate_policy

    for venv in batches.evaluation.values():
        venv.seed(10_000)
    means = {name: evaluate_policy(model, venv, EPISODES)[0] for name, venv in batches.evaluation.items()}
    return {name: float(mean) for name, mean in means.items()}  # type: ignore[arg-type]


def evaluation_callbacks(batches: PlainBatches, curve: list[tuple[float, float]]) -> list[BaseCallback]:
    """Evaluate during learning.

    :param curve: gets a pair of time and mean return for each evaluation on the target
    """
    from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

    class CurveCallback(BaseCallback):
        """Adds an evaluation on the target to the curve."""

        def _on_step(self) -> bool:
            curve.append((time.time(), float(self.parent.last_mean_reward)))  # type: ignore[union-attr]
            return True

    return [
        EvalCallback(
            venv,
            n_eval_episodes=EPISODES_DURING,
            eval_freq=EVERY // NUM_ENVS,
            callback_after_eval=CurveCallback() if name == "target" else None,
            verbose=0,
        )
        for name, venv in batches.evaluation.items()
    ]


def load_source(archive: Path, **settings: Any) -> PPO:
    """The source as SB3 loads it, with running statistics in updates, and with some exploration."""
    import torch
    from stable_baselines3 import PPO

    model = PPO.load(archive, device="cpu", **settings)
    model.policy.log_std.data.clamp_(min=math.log(0.2))
    for module in model.policy.modules():
        if isinstance(module, torch.nn.BatchNorm1d):  # PPO.train() would put it into training mode
            module.eval().train = lambda mode=True, module=module: module  # type: ignore[method-assign, misc]
    return model


def save_model(model: Any, path: Path) -> None:
    """Save an agent of either library."""
    if hasattr(model.policy, "modules"):  # of SB3, with what load_source changed
        for module in model.policy.modules():
            module.__dict__.pop("train", None)
    model.save(path)


def plain(variant: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """The run as a user would write it with SB3 or sbx alone."""
    import torch
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.utils import set_random_seed

    from daft_rl.archives import find_agent

    torch.set_num_threads(1)
    set_random_seed(seed)
    archive = find_agent(SOURCE, "ppo")
    batches = PlainBatches(variant.removeprefix("sbx_"), archive)
    settings: dict[str, Any] = {
        "n_steps": 128,
        "batch_size": 256,
        "learning_rate": lambda remaining: 3e-4 * 0.5 * (1 + math.cos(math.pi * (1 - remaining))),
    }
    model: Any
    if variant in SBX:
        from benchmarks.speed.whole_run_sbx import convert_agent

        model = convert_agent(load_source(archive), batches.training, seed, settings)
    else:
        model = load_source(archive, env=batches.training, **settings)
        model.set_random_seed(seed)
    before = evaluate_plain(model, batches)
    model.set_logger(configure(str(folder / "tensorboard"), ["tensorboard"]))
    curve: list[tuple[float, float]] = []
    model.learn(steps, callback=evaluation_callbacks(batches, curve))
    after = evaluate_plain(model, batches)
    save_model(model, folder / "final.zip")
    batches.close()
    return {"before": before, "after": after, "curve": since_start(curve)}


def ours(seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """The same run with daft_rl."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from daft_rl.transfer import transfer

    result = transfer(
        TASK, "daft", total_timesteps=steps, seed=seed, output_dir=folder, settings={"progress_bar": False}
    )
    logged = EventAccumulator(str(folder)).Reload().Scalars("eval/target_return")
    return {
        "curve": since_start([(point.wall_time, point.value) for point in logged]),
        "before": {name: returns.mean for name, returns in result.zero_shot.items()},
        "after": {name: returns.mean for name, returns in result.final.items()},
        "phases": {phase: round(seconds, 1) for phase, seconds in result.seconds_by_activity.items()},
    }


def run_one(variant: str, seed: int, steps: int) -> dict[str, Any]:
    """Run one variant in this process."""
    with tempfile.TemporaryDirectory() as folder:
        function = ours if variant == "daft_rl" else lambda *arguments: plain(variant, *arguments)
        found = function(seed, steps, Path(folder))
    return found | {"peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def timed(variant: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one variant in a new process."""
    options = ["--one", variant, "--seeds", str(seed), "--steps", str(arguments.steps)]
    started = time.perf_counter()
    found = run_module("benchmarks.speed.whole_run", options, variant in SBX, arguments.sbx_python)
    return {"variant": variant, "seed": seed, "seconds": round(time.perf_counter() - started, 1)} | found


def summary(values: list[float]) -> dict[str, float]:
    return {"median": round(median(values), 2), "min": round(min(values), 2), "max": round(max(values), 2)}


def fastest(runs: list[dict[str, Any]], variants: tuple[str, ...]) -> str | None:
    """The fastest of some variants, if any of them ran."""
    seconds = {v: [run["seconds"] for run in runs if run["variant"] == v] for v in variants}
    return min((v for v in variants if seconds[v]), key=lambda v: median(seconds[v]), default=None)


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds and returns by variant, and the speed of daft_rl relative to the faster variant of each other library."""
    variants = [variant for variant in VARIANTS if any(run["variant"] == variant for run in runs)]

    def column(variant: str, key: str) -> list[Any]:
        return [run[key] for run in runs if run["variant"] == variant]

    def reached(variant: str) -> list[float]:
        times = [[when for when, found in curve if found >= ENOUGH] for curve in column(variant, "curve")]
        return [found[0] for found in times if found]

    def times_faster(other: str | None) -> dict[str, float] | None:
        pairs = [(seconds[other, seed], taken) for (v, seed), taken in seconds.items() if v == "daft_rl"]
        return summary([theirs / taken for theirs, taken in pairs]) if other and pairs else None

    seconds = {(run["variant"], run["seed"]): run["seconds"] for run in runs}
    best = {"plain": fastest(runs, PLAIN), "sbx": fastest(runs, SBX)}
    return {
        "seconds": {variant: summary(column(variant, "seconds")) for variant in variants},
        "seconds_to_return": {v: {**summary(reached(v)), "reached": len(reached(v))} for v in variants if reached(v)},
        "target": {v: round(mean(after["target"] for after in column(v, "after")), 1) for v in variants},
        "peak_mib": {variant: max(column(variant, "peak_mib")) for variant in variants},
        "best_plain": best["plain"],
        "best_sbx": best["sbx"],
        "times_faster": times_faster(best["plain"]),
        "times_faster_than_sbx": times_faster(best["sbx"]),
    }


def main() -> None:
    """Run variants in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--sbx-python", type=Path, help="an interpreter with sbx and daft_rl's requirements")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", choices=VARIANTS, help="run this one here for the first seed, print JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_one(arguments.one, arguments.seeds[0], arguments.steps)))
        return
    runs = json.loads(arguments.out.read_text())["runs"] if arguments.out and arguments.out.exists() else []
    for seed in arguments.seeds:
        turn = VARIANTS if seed == arguments.seeds[0] else (fastest(runs, PLAIN), "daft_rl", fastest(runs, SBX))
        for variant in arguments.variants:
            if variant in turn and (variant, seed) not in {(run["variant"], run["seed"]) for run in runs}:
                runs.append(timed(variant, seed, arguments))
                print(runs[-1], flush=True)
                save(runs, arguments)
    save(runs, arguments)
    print(json.dumps(summarize(runs)))


def save(runs: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Write the runs that have finished so far."""
    data = {
        "command": " ".join(["python -m benchmarks.speed.whole_run", *sys.argv[1:]]),
        "machine": machine(),
        "steps": arguments.steps,
        **summarize(runs),
        "runs": runs,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
