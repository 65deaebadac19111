"""What a run records while its agent learns: returns, distances, and the best policy so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.archives import save_agent
from daft_rl.policy.distortion import Distortion, StatisticsDrift
from daft_rl.rollout.evaluation import evaluate_all
from daft_rl.rollout.lagrangian import find_constraint
from daft_rl.rollout.profile import Profile
from daft_rl.rollout.returns import Returns
from daft_rl.run.background import BackgroundCall
from daft_rl.settings import Evaluation

__all__ = ["Monitoring"]

Play = Callable[[], dict[str, Returns]]
Pending = BackgroundCall[dict[str, Returns]]


class Monitoring(BaseCallback):
    """Evaluates every ``every`` steps, logs to TensorBoard, and keeps the best policy.

    Learning goes on while a background process evaluates. Its returns are logged at the step of the policy that played.
    After learning, :meth:`finish` waits for the last evaluation.

    :param envs: role (``target``, ``source``) -> environment of raw observations and rewards
    :param evaluation: steps between evaluations, episodes of each, and their first seed
    :param best_path: archive of the policy with the best return in the first of ``envs``; where costs are limited, the
        best within the limit
    :param profile: where the time of evaluations is counted
    :param start: starts an evaluation; ``None`` plays in this process
    :param distortion: measures how far features have moved
    :param drift: measures how far running statistics have moved
    :param initial: returns of the policy that learning begins with, by role, for at least ``episodes_during`` of the
        same episodes; the first evaluation takes them and plays nothing
    """

    def __init__(
        self,
        envs: Mapping[str, VecEnv],
        evaluation: Evaluation,
        best_path: Path,
        profile: Profile,
        start: Callable[[Play], Pending] | None = None,
        distortion: Distortion | None = None,
        drift: StatisticsDrift | None = None,
        initial: Pending | None = None,
    ) -> None:
        super().__init__()
        self.envs, self.evaluation = dict(envs), evaluation
        self.best_path, self.best = best_path, (False, -float("inf"))
        self.profile, self.start = profile, start or partial(BackgroundCall, fork=False)
        self.distortion, self.drift = distortion, drift
        self.initial = initial
        self.curve: list[dict[str, Any]] = []
        """One entry per evaluation: ``timesteps``, mean return by role, distances."""
        self._next_evaluation = evaluation.every
        self._pending: tuple[int, dict[str, float], Pending] | None = None

    @property
    def evaluates(self) -> bool:
        """Whether an evaluation has begun whose returns are not logged yet."""
        return self._pending is not None

    @property
    def idle(self) -> bool:
        """Whether nobody has to wait for an evaluation."""
        return self._pending is None or self._pending[-1].ready()

    def _on_training_start(self) -> None:
        if self.curve:  # the run goes on
            return
        if self.initial is None:
            self.evaluate()
            return
        with self.profile("evaluation"):
            self._save_best()
            self._pending = self.num_timesteps, self._distances(), self.initial

    def _on_step(self) -> bool:
        if self._pending is not None and self._pending[-1].ready():
            self.finish()
        if self.num_timesteps >= self._next_evaluation:
            self._next_evaluation += self.evaluation.every
            self.evaluate()
        return True

    def _on_rollout_end(self) -> None:
        costs = [episode["episode_cost"] for episode in self.model.ep_info_buffer or () if "episode_cost" in episode]
        if costs:
            self.logger.record("rollout/ep_cost_mean", float(np.mean(costs)))
        constraint = find_constraint(self.training_env)
        if constraint is not None:
            self.logger.record("constraint/multiplier", constraint.multiplier)

    def evaluate(self) -> None:
        """Finish the pending evaluation, then start one of the policy as it is now."""
        self.finish()
        with self.profile("evaluation"):
            self._pending = self.num_timesteps, self._distances(), self.start(self._play)

    def finish(self) -> None:
        """Wait for the pending evaluation, if there is one, and log it."""
        if self._pending is None:
            return
        (timesteps, distances, call), self._pending = self._pending, None
        with self.profile("evaluation"):
            returns = call.result()
            self.best = max(self.best, self._rank(returns))
            episodes = self.evaluation.episodes_during
            self._log(timesteps, distances, {role: returns[role].first(episodes) for role in self.envs})

    def _play(self) -> dict[str, Returns]:
        """Play, and save the policy if it is the best so far. The process that learns may have a later one by then."""
        returns = evaluate_all(self.model, self.envs, self.evaluation.episodes_during, self.evaluation.seed)
        if self._rank(returns) > self.best:
            self._save_best()
        return returns

    def _save_best(self) -> None:
        save_agent(self.model, self.best_path, prefix=f"{self.best_path.stem}_")

    def _distances(self) -> dict[str, float]:
        """How far the policy is from where it started."""
        drift = {} if self.drift is None else self.drift.measure()
        distortion = {} if self.distortion is None else self.distortion.summary()
        return {f"batchnorm_{key}_drift": value for key, value in drift.items()} | {
            f"distortion_{key}": value for key, value in distortion.items()
        }

    def _rank(self, returns: Mapping[str, Returns]) -> tuple[bool, float]:
        """A policy within the limit on costs is better than one above it. Above it, the lowest cost is best."""
        first = returns[next(iter(self.envs))].first(self.evaluation.episodes_during)
        constraint, cost = find_constraint(self.training_env), first.mean_cost
        if constraint is None or cost is None or cost <= constraint.limit:
            return True, first.mean
        return False, -cost

    def _log(self, timesteps: int, distances: Mapping[str, float], returns: Mapping[str, Returns]) -> None:
        point: dict[str, Any] = {"timesteps": timesteps}
        logger = Logger(self.logger.dir, self.logger.output_formats)  # the model's own holds values of another step
        for role, result in returns.items():
            point[role] = result.mean
            logger.record(f"eval/{role}_return", result.mean)
            logger.record(f"eval/{role}_return_std", result.std)
            if result.mean_cost is not None:
                point[f"{role}_cost"] = result.mean_cost
                logger.record(f"eval/{role}_cost", result.mean_cost)
        for key, value in distances.items():
            group, _, rest = key.partition("_")
            logger.record(f"{group}/{rest}", value)
        for phase, seconds in self.profile.as_dict().items():
            logger.record(f"time/{phase}_seconds", seconds)
        logger.dump(timesteps)
        self.curve.append(point | dict(distances))

    def state_dict(self) -> dict[str, Any]:
        """What monitoring needs to go on. A pending evaluation is finished first."""
        self.finish()
        return {"next_evaluation": self._next_evaluation, "best": self.best, "curve": list(self.curve)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self._next_evaluation, self.best = state["next_evaluation"], tuple(state["best"])
        self.curve = list(state["curve"])
