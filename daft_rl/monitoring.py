"""What is watched while an agent learns: returns, distances, and the best policy so far."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.distortion import Distortion, StatisticsDrift
from daft_rl.evaluation import Returns, evaluate_all
from daft_rl.phases import Phases
from daft_rl.running import find_constraint, save_agent

__all__ = ["Monitoring"]


class Monitoring(BaseCallback):
    """Evaluates every ``every`` steps, logs to TensorBoard, and keeps the best policy.

    :param envs: name (``target``, ``source``) -> environment of raw observations and rewards
    :param settings: ``every`` (steps between evaluations), ``episodes_during`` (episodes each) and ``seed``
        (of the first episode; the same episodes every time)
    :param best_path: where the policy with the best return on the first of ``envs``, within the limit on costs if there
        is one, is saved
    :param phases: where the time of evaluations is written down
    :param distortion: remembers the features at the start
    :param drift: remembers the running statistics at the start
    :param known: returns of the policy that learning begins with, by name, where its first episodes were played
        before: it is not played again
    """

    def __init__(
        self,
        envs: dict[str, VecEnv],
        settings: DictConfig,
        best_path: Path,
        phases: Phases,
        distortion: Distortion | None = None,
        drift: StatisticsDrift | None = None,
        known: Mapping[str, Returns] | None = None,
    ) -> None:
        super().__init__()
        self.envs, self.settings = envs, settings
        self.best_path, self.best = best_path, (False, -float("inf"))
        self.phases = phases
        self.distortion, self.drift = distortion, drift
        self.known = known or {}
        self.curve: list[dict[str, Any]] = []
        """One entry per evaluation: ``timesteps``, mean return by environment, distances."""
        self._next = settings.every

    def _on_training_start(self) -> None:
        episodes = self.settings.episodes_during
        known = {name: self.known[name].first(episodes) for name in self.envs if name in self.known}
        complete = len(known) == len(self.envs) and all(len(one.returns) == episodes for one in known.values())
        self.evaluate(known if complete else None)

    def _on_step(self) -> bool:
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

    def evaluate(self, returns: Mapping[str, Returns] | None = None) -> None:
        """Log returns and distances, and save the policy if it is the best so far.

        :param returns: those of the policy, by name; ``None`` plays
        """
        with self.phases("evaluation"):
            if returns is None:
                returns = evaluate_all(self.model, self.envs, self.settings.episodes_during, self.settings.seed)
            self._note(returns)

    def _note(self, returns: Mapping[str, Returns]) -> None:
        point: dict[str, Any] = {"timesteps": self.num_timesteps}
        for name, result in returns.items():
            point[name] = result.mean
            self.logger.record(f"eval/{name}_return", result.mean)
            self.logger.record(f"eval/{name}_return_std", result.std)
            if result.mean_cost is not None:
                point[f"{name}_cost"] = result.mean_cost
                self.logger.record(f"eval/{name}_cost", result.mean_cost)
        if self.drift is not None:
            point |= {f"batchnorm_{key}_drift": value for key, value in self.drift.measure().items()}
        if self.distortion is not None:
            point |= {f"distortion_{key}": value for key, value in self.distortion.summary().items()}
        for key, value in point.items():
            group, _, rest = key.partition("_")
            if group in ("batchnorm", "distortion"):
                self.logger.record(f"{group}/{rest}", value)
        for phase, seconds in self.phases.as_dict().items():
            self.logger.record(f"time/{phase}_seconds", seconds)
        self.logger.dump(self.num_timesteps)
        self.curve.append(point)
        rank = self._rank(next(iter(returns.values())))
        if rank > self.best:
            self.best = rank
            save_agent(self.model, self.best_path, prefix=f"{self.best_path.stem}_")

    def _rank(self, returns: Returns) -> tuple[bool, float]:
        """Under a limit on costs, whatever keeps it is better than what does not, and there the lowest cost is best."""
        constraint, cost = find_constraint(self.training_env), returns.mean_cost
        if constraint is None or cost is None or cost <= constraint.limit:
            return True, returns.mean
        return False, -cost
