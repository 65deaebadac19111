"""What is watched while an agent learns: returns, distances, and the best policy so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.policy.distortion import Distortion, StatisticsDrift
from daft_rl.rollout.evaluation import Returns, evaluate_all
from daft_rl.rollout.profile import Phases
from daft_rl.run.background import BackgroundCall
from daft_rl.run.folder import find_constraint, save_agent

__all__ = ["Monitoring"]

Play = Callable[[], dict[str, Returns]]


class Monitoring(BaseCallback):
    """Evaluates every ``every`` steps, logs to TensorBoard, and keeps the best policy.

    Learning goes on while an evaluation is played in another process; what it finds is logged at the step of the
    policy that played. After learning, :meth:`finish` waits for the last one.

    :param envs: name (``target``, ``source``) -> environment of raw observations and rewards
    :param settings: ``every`` (steps between evaluations), ``episodes_during`` (episodes each) and ``seed``
        (of the first episode; the same episodes every time)
    :param best_path: where the policy with the best return on the first of ``envs``, within the limit on costs if there
        is one, is saved
    :param phases: where the time of evaluations is written down
    :param begin: begins an evaluation, here or in another process; ``None`` plays here
    :param distortion: remembers the features at the start
    :param drift: remembers the running statistics at the start
    :param known: returns of the policy that learning begins with, by name, at least ``episodes_during`` of the same
        episodes: it is not played again
    """

    def __init__(
        self,
        envs: dict[str, VecEnv],
        settings: DictConfig,
        best_path: Path,
        phases: Phases,
        begin: Callable[[Play], BackgroundCall[dict[str, Returns]]] | None = None,
        distortion: Distortion | None = None,
        drift: StatisticsDrift | None = None,
        known: BackgroundCall[dict[str, Returns]] | None = None,
    ) -> None:
        super().__init__()
        self.envs, self.settings = envs, settings
        self.best_path, self.best = best_path, (False, -float("inf"))
        self.phases, self.begin = phases, begin or partial(BackgroundCall, fork=False)
        self.distortion, self.drift = distortion, drift
        self.known = known
        self.curve: list[dict[str, Any]] = []
        """One entry per evaluation: ``timesteps``, mean return by environment, distances."""
        self._next = settings.every
        self._begun: tuple[int, dict[str, float], BackgroundCall[dict[str, Returns]]] | None = None

    def _on_training_start(self) -> None:
        if self.known is None:
            self.evaluate()
            return
        with self.phases("evaluation"):
            self._save_agent()
            self._begun = self.num_timesteps, self._measure(), self.known

    def _on_step(self) -> bool:
        if self._begun is not None and self._begun[-1].ready():
            self.finish()
        if self.num_timesteps >= self._next:
            self._next += self.settings.every
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
        """Begin to play with the policy as it is now, after the evaluation before has been finished."""
        self.finish()
        with self.phases("evaluation"):
            self._begun = self.num_timesteps, self._measure(), self.begin(self._play)

    def finish(self) -> None:
        """Wait for the evaluation that was begun, if one was, and log it."""
        if self._begun is None:
            return
        (timesteps, distances, call), self._begun = self._begun, None
        with self.phases("evaluation"):
            returns = call.result()
            self.best = max(self.best, self._rank(returns))
            episodes = self.settings.episodes_during
            self._note(timesteps, distances, {name: returns[name].first(episodes) for name in self.envs})

    def _play(self) -> dict[str, Returns]:
        """Play, and save the policy if it is the best so far; the process that learns may have a later one by then."""
        returns = evaluate_all(self.model, self.envs, self.settings.episodes_during, self.settings.seed)
        if self._rank(returns) > self.best:
            self._save_agent()
        return returns

    def _save_agent(self) -> None:
        save_agent(self.model, self.best_path, prefix=f"{self.best_path.stem}_")

    def _measure(self) -> dict[str, float]:
        """How far the policy is from where it started."""
        drift = {} if self.drift is None else self.drift.measure()
        distortion = {} if self.distortion is None else self.distortion.summary()
        return {f"batchnorm_{key}_drift": value for key, value in drift.items()} | {
            f"distortion_{key}": value for key, value in distortion.items()
        }

    def _note(self, timesteps: int, distances: Mapping[str, float], returns: Mapping[str, Returns]) -> None:
        point: dict[str, Any] = {"timesteps": timesteps}
        logger = Logger(self.logger.dir, self.logger.output_formats)  # what else is recorded belongs to another step
        for name, result in returns.items():
            point[name] = result.mean
            logger.record(f"eval/{name}_return", result.mean)
            logger.record(f"eval/{name}_return_std", result.std)
            if result.mean_cost is not None:
                point[f"{name}_cost"] = result.mean_cost
                logger.record(f"eval/{name}_cost", result.mean_cost)
        for key, value in distances.items():
            group, _, rest = key.partition("_")
            logger.record(f"{group}/{rest}", value)
        for phase, seconds in self.phases.as_dict().items():
            logger.record(f"time/{phase}_seconds", seconds)
        logger.dump(timesteps)
        self.curve.append(point | dict(distances))

    def _rank(self, returns: Mapping[str, Returns]) -> tuple[bool, float]:
        """Under a limit on costs, whatever keeps it is better than what does not, and there the lowest cost is best."""
        first = returns[next(iter(self.envs))].first(self.settings.episodes_during)
        constraint, cost = find_constraint(self.training_env), first.mean_cost
        if constraint is None or cost is None or cost <= constraint.limit:
            return True, first.mean
        return False, -cost
