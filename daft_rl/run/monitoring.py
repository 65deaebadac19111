"""What a run records while its agent learns: returns, distances, and the best policy so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
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
from daft_rl.run.interruption import interruption
from daft_rl.run.snapshot import PolicyCopy
from daft_rl.settings import Evaluation

__all__ = ["Monitoring"]

Play = Callable[[], dict[str, Returns]]
Call = BackgroundCall[dict[str, Returns]]
LOOK_SECONDS = 0.2
"""Time between two looks at whether the run should stop, where it waits for an evaluation."""


class _GivenUpError(Exception):
    """The run should stop, and the evaluation is left to the process that goes on."""


def _give_up_if_stopping() -> None:
    if interruption.requested:
        raise _GivenUpError


@dataclass
class _Point:
    """A point of the curve whose returns are not known yet."""

    timesteps: int
    distances: dict[str, float]
    policy: PolicyCopy | None
    """Who plays; ``None`` where the returns are those of another evaluation."""
    call: Call | None = None
    """``None`` if nobody plays yet."""

    def as_dict(self) -> dict[str, Any]:
        policy = None if self.policy is None else self.policy.state_dict()
        return {"timesteps": self.timesteps, "distances": self.distances, "policy": policy}


class Monitoring(BaseCallback):
    """Evaluates every ``every`` steps, logs to TensorBoard, and keeps the best policy.

    Learning goes on while a background process evaluates. Its returns are logged at the step of the policy that played.
    After learning, :meth:`finish` waits for the last evaluation.

    :param envs: role (``target``, ``source``) -> environment of raw observations and rewards
    :param evaluation: steps between evaluations, episodes of each, and their first seed
    :param best_path: archive of the policy with the best return in the first of ``envs``; where costs are limited, the
        best within the limit
    :param profile: where the time of evaluations is counted
    :param start: starts an evaluation by a policy; ``None`` plays in this process
    :param distortion: measures how far features have moved
    :param drift: measures how far running statistics have moved
    :param initial: returns of the policy that learning begins with, by role, for at least ``episodes_during`` of the
        same episodes; the first evaluation takes them and plays nothing
    :param axis: the step at which a step of the model is shown
    """

    def __init__(
        self,
        envs: Mapping[str, VecEnv],
        evaluation: Evaluation,
        best_path: Path,
        profile: Profile,
        start: Callable[[Play, PolicyCopy], Call] | None = None,
        distortion: Distortion | None = None,
        drift: StatisticsDrift | None = None,
        initial: Call | None = None,
        axis: Callable[[int], int] = lambda step: step,
    ) -> None:
        super().__init__()
        self.axis = axis
        self.envs, self.evaluation = dict(envs), evaluation
        self.best_path, self.best = best_path, (False, -float("inf"))
        self.profile = profile
        self.start = start or (lambda play, _: BackgroundCall(play, fork=False))
        self.distortion, self.drift = distortion, drift
        self.initial = initial
        self.curve: list[dict[str, Any]] = []
        """One entry per evaluation: ``timesteps``, mean return by role, distances."""
        self._next_evaluation = evaluation.every
        self._points: list[_Point] = []
        self._kept: list[dict[str, Any]] = []
        """Points that an earlier process has left to this one."""

    @property
    def idle(self) -> bool:
        """Whether nobody has to wait for an evaluation."""
        return not self._kept and all(point.call is not None and point.call.ready() for point in self._points)

    @property
    def best_step(self) -> int | None:
        """The step in the curve at which the policy of ``best_path`` played; ``None`` if none has."""
        role, (within, value) = next(iter(self.envs)), self.best
        shown = [
            (point["timesteps"], point[role] if within else -point.get(f"{role}_cost", 0.0)) for point in self.curve
        ]
        return next((step for step, reached in shown if reached == value), None)

    def _on_training_start(self) -> None:
        if self.curve:  # the run goes on
            return
        # the policy is still that of the first point, and so it is in a run that goes on
        if self.initial is None:
            self.evaluate()
            return
        with self.profile("evaluation"):
            self._save_best()
            self._points = [_Point(self.num_timesteps, self._distances(), None, self.initial)]

    def _on_step(self) -> bool:
        if self._kept:
            self._take_up()
        if self._points:
            self._advance(wait=False)
        if self.axis(self.num_timesteps) >= self._next_evaluation:
            self._next_evaluation += self.evaluation.every
            self.evaluate()
        return True

    def _on_rollout_end(self) -> None:
        costs = [episode["episode_cost"] for episode in self.model.ep_info_buffer or () if "episode_cost" in episode]
        if costs:
            self.logger.record("rollout/ep_cost_mean", float(np.mean(costs)))
        constraint = find_constraint(self.training_env)
        if constraint is not None:
            self.logger.record("rollout/cost_multiplier", constraint.multiplier)

    def skip(self, until: int) -> None:
        """Make no evaluations that were due up to this step: others learnt there."""
        while self._next_evaluation <= until:
            self._next_evaluation += self.evaluation.every

    def evaluate(self) -> None:
        """Finish the pending evaluations, then start one of the policy as it is now."""
        self.finish()
        with self.profile("evaluation"):
            point = _Point(self.num_timesteps, self._distances(), PolicyCopy(self.model))
            self._points.append(point)
            if len(self._points) == 1:
                self._begin(point, lambda _: self._play())

    def finish(self) -> None:
        """Wait for the pending evaluations and log them. If the run should stop meanwhile, they stay pending."""
        self._advance(wait=True)

    def _advance(self, wait: bool) -> None:
        """Log evaluations in their order, each before the next one begins."""
        while self._points:
            point = self._points[0]
            if point.call is None:
                with self.profile("evaluation"):
                    self._begin(point, self._play_as)
            if point.call is None or not (wait or point.call.ready()):
                return
            with self.profile("evaluation"):
                returns = self._returns(point)
                if returns is None:
                    return
                self._points.pop(0)
                rank = self._rank(returns)
                self.best = max(self.best, rank)
                episodes = self.evaluation.episodes_during
                self._log(point.timesteps, point.distances, {role: returns[role].first(episodes) for role in self.envs})

    def _begin(self, point: _Point, play: Callable[[PolicyCopy], dict[str, Returns]]) -> None:
        """Start the evaluation of a point, unless the run should stop."""
        policy = point.policy
        assert policy is not None
        with suppress(_GivenUpError):
            _give_up_if_stopping()
            point.call = self.start(lambda: play(policy), policy)

    def _returns(self, point: _Point) -> dict[str, Returns] | None:
        """Wait for an evaluation; ``None`` if the run should stop before it has ended."""
        assert point.call is not None
        while not point.call.wait(LOOK_SECONDS):
            if interruption.requested:
                return None
        try:
            return point.call.result()
        except _GivenUpError:  # a background process was killed, and this one has begun to play
            point.call = None
            return None

    def _play_as(self, policy: PolicyCopy) -> dict[str, Returns]:
        """Play as an earlier policy."""
        with policy.in_place():
            return self._play()

    def _take_up(self) -> None:
        """Go on with the evaluations that an earlier process has begun."""
        for kept in self._kept:
            policy = PolicyCopy(self.model)
            policy.load_state_dict(kept["policy"])
            self._points.append(_Point(kept["timesteps"], kept["distances"], policy))
        self._kept = []

    def _play(self) -> dict[str, Returns]:
        """Play, and save the policy if it is the best so far. The process that learns may have a later one by then."""
        evaluation = self.evaluation
        returns = evaluate_all(
            self.model, self.envs, evaluation.episodes_during, evaluation.seed, before_step=_give_up_if_stopping
        )
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
        shown = self.axis(timesteps)
        point: dict[str, Any] = {"timesteps": shown}
        logger = Logger(self.logger.dir, self.logger.output_formats)  # the model's own holds values of another step
        for role, result in returns.items():
            point[role] = result.mean
            logger.record(f"eval/{role}_return", result.mean)
            if len(result.returns) > 1:
                logger.record(f"eval/{role}_return_std", result.std)
            if result.mean_cost is not None:
                point[f"{role}_cost"] = result.mean_cost
                logger.record(f"eval/{role}_cost", result.mean_cost)
        for key, value in distances.items():
            logger.record(f"from_source/{key}", value)
        for phase, seconds in self.profile.as_dict().items():
            logger.record(f"time/{phase}_seconds", seconds)
        logger.dump(shown)
        self.curve.append(point | dict(distances))

    def state_dict(self) -> dict[str, Any]:
        """What monitoring needs to go on, with the policies whose evaluations have not ended.

        The first one is not among them: the policy before learning is there again when the run goes on.
        """
        self._advance(wait=False)
        later = [point.as_dict() for point in self._points if point.timesteps > 0]
        return {
            "next_evaluation": self._next_evaluation,
            "best": self.best,
            "curve": list(self.curve),
            "points": [*self._kept, *later],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self._next_evaluation, self.best = state["next_evaluation"], tuple(state["best"])
        self.curve, self._kept = list(state["curve"]), list(state["points"])
