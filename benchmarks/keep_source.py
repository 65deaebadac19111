"""What keeps more of the source while a PPO policy learns on a target, and what that costs there.

    python -m benchmarks.keep_source kl_source-0.01 --task HalfCheetah --seeds 0 1 2 --out FILE

The method is ``daft``. The arms: ``default``; ``target_kl-0.01``; ``critic-0.05``, where the actor is frozen for a
twentieth of the run; ``kl_source-COEF``, where ``COEF`` times the mean of KL(source || policy) over the states of a
minibatch is a penalty on the loss, which falls to zero until the end of the run; ``kl_source-COEF-home``, where the
states are those that the source visits in its own environment. ``--out`` gets a line per run, with the returns at the
start and the end, the curve, and the path of ``daft_rl.blend`` if ``--blend`` asks for it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from daft_rl import blend, transfer
from daft_rl.archives import load_agent
from daft_rl.envs.domain import read_domains
from daft_rl.learner import learner
from daft_rl.learner.training import ClippedUpdates
from daft_rl.rollout.evaluation import visit
from daft_rl.rollout.returns import Returns
from daft_rl.run.snapshot import PolicyCopy
from daft_rl.settings import read_task

SETTINGS: dict[str, Any] = {
    **{"evaluation.every": 10_000, "evaluation.episodes_during": 10, "evaluation.episodes": 20},
    **{"calibration.held_out": 64, "progress_bar": False},
}
ARMS: dict[str, dict[str, Any]] = {
    "default": {},
    "target_kl-0.01": {"algo.settings.target_kl": 0.01},
    "critic-0.05": {f"method.actor_{part}.frozen_until": 0.05 for part in ("encoder", "head")},
}


class PulledUpdates(ClippedUpdates):
    """PPO's updates with a penalty on the divergence from the source, whose gradient is added after clipping.

    :param model: of a Gaussian policy
    :param coef: coefficient at the start
    :param states: of the source, shape ``(n, size)``; ``None`` takes those of the minibatch
    """

    def __init__(self, model: Any, coef: float, states: NDArray[Any] | None) -> None:
        super().__init__(model)
        self.coef, self.weight = coef, 0.0
        self.states = None if states is None else torch.as_tensor(states)
        self._random = torch.Generator().manual_seed(0)
        self._source: PolicyCopy | None = None

    def train(self) -> None:
        if self._source is None:
            self._source = PolicyCopy(self.model)
        self.weight = self.coef * max(0.0, self.model._current_progress_remaining)
        super().train()

    def _loss(self, batch: Any, by: Any) -> tuple[Tensor, Tensor]:
        self._seen = batch.observations
        return super()._loss(batch, by)

    def _descend(self, loss: Tensor) -> None:
        hook = self.model.policy.optimizer.register_step_pre_hook(self._pull)  # adapt() makes another optimizer
        super()._descend(loss)
        hook.remove()

    @torch.enable_grad()  # optimizers step without
    def _pull(self, *_: Any) -> None:
        if self.weight == 0.0:
            return
        observations = self._seen
        if self.states is not None:
            rows = torch.randint(len(self.states), (len(observations),), generator=self._random)
            observations = self.states[rows]
        assert self._source is not None
        mean, log_std = self._gaussian(observations)
        with torch.no_grad(), self._source.in_place():
            source_mean, source_log_std = self._gaussian(observations)
        ratio = (2 * (source_log_std - log_std)).exp()
        scaled = (source_mean - mean).square() * (-2 * log_std).exp()
        divergence = 0.5 * (ratio + scaled - 1 - ratio.log()).sum(1).mean()
        (self.weight * divergence).backward()

    def _gaussian(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Means of actions, shape ``(batch, action size)``, and the logarithm of their deviations."""
        distribution = self.model.policy.get_distribution(observations)
        return distribution.mean, distribution.log_std


@contextmanager
def pulled(coef: float, states: NDArray[Any] | None) -> Iterator[None]:
    """Inside, PPO learns by :class:`PulledUpdates`."""
    with patch.object(learner, "find_training", lambda model: PulledUpdates(model, coef, states)):
        yield


def states_at_home(task: str) -> NDArray[Any]:
    """States of the shipped PPO source in its own environment, shape ``(8192, size)``."""
    source = read_domains(read_task(f"{task}-shifted"))["source"]
    observations, _ = visit(load_agent(f"{task}-ppo"), DummyVecEnv([source.make] * 8), 8192, 7)
    return np.asarray(observations, np.float32)


def means(returns: Mapping[str, Returns]) -> dict[str, float]:
    """Role -> mean return."""
    return {role: round(played.mean, 1) for role, played in returns.items()}


def measure(task: str, gravity: float | None, arm: str, seed: int, steps: int, blends: bool) -> dict[str, Any]:
    """One transfer."""
    kind, _, rest = arm.partition("-")
    coef, _, home = rest.partition("-")
    penalty = pulled(float(coef), states_at_home(task) if home else None) if kind == "kl_source" else nullcontext()
    shift = None if gravity is None else {"gravity": gravity}
    settings = SETTINGS | ARMS.get(arm, {})
    with TemporaryDirectory() as folder, penalty:
        result = transfer(
            f"{task}-shifted",
            "daft",
            total_timesteps=steps,
            seed=seed,
            shift=shift,
            settings=settings,
            output_dir=f"{folder}/run",
        )
        path = blend(f"{folder}/run", episodes=10).returns if blends else {}
    returns = {when: means(getattr(result, when)) for when in ("zero_shot", "final")}
    return {
        **{"task": task, "gravity": gravity, "arm": arm, "seed": seed, "steps": steps, **returns},
        **{"curve": [round(point["target"], 1) for point in result.curve], "on_the_way": result.on_the_way},
        **({"path": [{"alpha": alpha, **means(played)} for alpha, played in path.items()]} if path else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="+", metavar="ARM")
    parser.add_argument("--task", default="HalfCheetah", choices=["HalfCheetah", "Ant"])
    parser.add_argument("--gravity", type=float, help="without it, the task's default shift")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--blend", action="store_true", help="play the path from the source to the policy too")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with given.out.open("a") as out:
        for seed in given.seeds:
            for arm in given.arms:
                line = json.dumps(measure(given.task, given.gravity, arm, seed, given.steps, given.blend))
                print(line, file=out, flush=True)


if __name__ == "__main__":
    main()
