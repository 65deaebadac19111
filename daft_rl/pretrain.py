"""``python -m daft_rl.pretrain env=Ant algo=ppo``: train a source policy with BatchNorm, as the shipped ones were.

The same mechanism as a transfer: the method ``scratch`` on a fresh agent, with the settings of a recipe
(``configs/recipe/TASK-ALGO.yaml``).
"""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from daft_rl.cli import plain, run_command
from daft_rl.envs import read_shift
from daft_rl.methods import Method

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["run"]

PACKAGES = ("daft-rl", "torch", "stable-baselines3", "sb3-contrib", "gymnasium", "mujoco", "numpy")


def run(cfg: DictConfig) -> dict[str, Any]:
    """Train a source, as the configuration says (``configs/pretrain.yaml``).

    The run folder then holds ``agent.zip``, ``vecnormalize.pkl`` (the reward's scale) and ``card.json``.

    :return: what stands in ``card.json``
    :raises DaftError: something in the configuration does not exist or does not fit
    """
    started = time.perf_counter()
    task = cfg.env.name
    shift = read_shift(task, plain(cfg.env.shift))
    method = Method.from_dict(plain(cfg.method))

    from daft_rl.evaluation import evaluate, visit
    from daft_rl.monitoring import Monitoring
    from daft_rl.results import write_json
    from daft_rl.running import Workspace
    from daft_rl.tuning import Reconversion, Tuner

    with Workspace(cfg) as work:
        model = work.build(work.training_env(task, shift))
        tuner = Tuner(model, method)
        if method.conversion != "none":
            visited = visit(model, work.env(task, shift, cfg.num_envs), cfg.calibration.steps, cfg.seed + 1)
            tuner.convert(*visited, method.preserve_function)
        during = {"source": work.env(task, shift, cfg.evaluation.episodes_during)}
        monitoring = Monitoring(during, cfg.evaluation, work.folder / "best.zip")
        work.learn(model, [Reconversion(tuner, cfg.calibration.steps), monitoring])
        tuner.detach()
        returns = evaluate(
            model, work.env(task, shift, cfg.evaluation.episodes), cfg.evaluation.episodes, cfg.evaluation.seed
        )
        model.save(work.folder / "agent.zip", exclude=["rollout_buffer", "replay_buffer"])
        normalizer = model.get_vec_normalize_env()
        if normalizer is not None:
            normalizer.save(str(work.folder / "vecnormalize.pkl"))
        card = {
            "task": task,
            "algo": cfg.algo.name,
            "seed": cfg.seed,
            "timesteps": model.num_timesteps,
            "wall_seconds": time.perf_counter() - started,
            "returns": returns.as_dict(),
            "recipe": plain(cfg.recipe),
            "versions": {name: version(name) for name in PACKAGES},
            "curve": monitoring.curve,
        }
        write_json(work.folder / "card.json", card)
    return card


def main(cfg: DictConfig) -> None:
    """Train, and print what came of it."""
    card = run(cfg)
    returns = card["returns"]
    print(f"{card['task']} {card['algo']}: return {returns['mean']:.1f} +- {returns['std']:.1f} in {cfg.output_dir}")


if __name__ == "__main__":
    run_command("pretrain", main)
