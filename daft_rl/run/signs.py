"""Cheap signs about the arms of a race, before anything is learnt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from daft_rl.agents.algorithms import find_algorithm
from daft_rl.batchnorm import batchnorm_layers
from daft_rl.errors import AgentError, BatchNormError, DivergenceError, MethodError
from daft_rl.finetune.realignment import find_input_range
from daft_rl.finetune.tuner import check_method
from daft_rl.method import Method
from daft_rl.policy.insertion import wants_batchnorm
from daft_rl.rollout.evaluation import visit
from daft_rl.run.run import Run
from daft_rl.run.verdict import Played, lead
from daft_rl.settings import TransferSettings

__all__ = ["UNFIT", "Signs", "refresh", "start_problems"]

UNFIT = (AgentError, BatchNormError, DivergenceError, MethodError)
"""Errors that are an arm's own, which falls away for them."""

SURE = 3.0
"""Standard errors by which an arm has to start above the source, or above another arm, as in
:mod:`daft_rl.finetune.realignment`."""


@dataclass(frozen=True)
class Signs:
    """What an agent tells about methods."""

    rollout: int
    """Steps between two places at which a run can stop."""
    idle: int
    """Steps before an off-policy algorithm begins to learn."""
    has_batchnorm: bool
    batch_statistics: bool
    """Whether the algorithm needs BatchNorm's batch statistics in updates, as CrossQ does."""
    inserts: frozenset[str]
    """Methods that insert BatchNorm."""
    can_stop: bool
    """Whether a checkpoint can keep all that learning needs."""
    misfits: Mapping[str, str]
    """Methods that cannot be applied to the agent, and why."""

    @classmethod
    def of(cls, run: Run, methods: Iterable[Method], settings: TransferSettings) -> Signs:
        """
        :param run: has loaded the source for learning
        :param methods: the arms
        :param settings: of the race
        """
        model = run.model
        choice = settings.agent.insert_batchnorm
        inserts = frozenset(arm.name for arm in methods if wants_batchnorm(model, arm, choice))
        layers, mode = bool(batchnorm_layers(model.policy)), find_algorithm(model).bn_mode
        on_device = run.environments.has_worlds and isinstance(model, OffPolicyAlgorithm)
        return cls(
            rollout=_rollout(model),
            idle=getattr(model, "learning_starts", 0),
            has_batchnorm=layers,
            batch_statistics=layers and mode == "train",
            inserts=inserts,
            can_stop=run.store.can_keep(model) and not on_device,
            misfits=_misfits(model, methods, settings),
        )

    def changes_start(self, arm: Method) -> bool:
        """Whether the policy is another before it has learnt, in a way that may help or harm: inputs are realigned, or
        updates see batch statistics without conversion."""
        return arm.realign is not None or self.refreshes(arm)

    def refreshes(self, arm: Method) -> bool:
        """Whether updates see another function than rollouts, because batch statistics take the source's place."""
        return arm.bn_mode == "train" and arm.conversion == "none" and self.has_batchnorm

    def misses_batch_statistics(self, arm: Method) -> bool:
        """Whether the algorithm needs batch statistics, and the method's updates have none."""
        return self.batch_statistics and arm.bn_mode == "eval"

    def essence(self, arm: Method) -> Method:
        """The method without what has no effect on this agent: two arms of one essence do the same.

        A conversion that preserves the function is no difference where updates use running statistics.
        """
        bare = not self.has_batchnorm and arm.name not in self.inserts
        mode = "eval" if bare else arm.bn_mode
        only_moves = arm.conversion == "once" and arm.preserve_function and not arm.l2_sp and mode == "eval"
        if bare or only_moves:
            arm = replace(arm, conversion="none")
        preserves, keeps = arm.conversion == "none" or arm.preserve_function, arm.realign is None or arm.keep_source
        return replace(arm, name="any", bn_mode=mode, preserve_function=preserves, keep_source=keeps)

    def same(self, arms: Mapping[str, Method]) -> dict[str, str]:
        """The arms that do the same as one before them.

        :return: name -> that one
        """
        first: dict[Method, str] = {}
        found = {name: first.setdefault(self.essence(arm), name) for name, arm in arms.items()}
        return {name: other for name, other in found.items() if other != name}


def _misfits(model: BaseAlgorithm, methods: Iterable[Method], settings: TransferSettings) -> dict[str, str]:
    found = {}
    for arm in methods:
        try:
            check_method(model, arm, settings.algo.actor_scale, settings.agent.head, settings.agent.critic)
            if arm.realign is not None:
                find_input_range(model, arm.realign)
        except MethodError as error:
            found[arm.name] = str(error)
    return found


def _rollout(model: BaseAlgorithm) -> int:
    if isinstance(model, OnPolicyAlgorithm):
        return model.n_steps * model.n_envs
    frequency = model.train_freq if isinstance(model, OffPolicyAlgorithm) else None
    by_steps = isinstance(frequency, TrainFreq) and frequency.unit == TrainFrequencyUnit.STEP
    return (frequency.frequency if by_steps else 1) * model.n_envs  # type: ignore[union-attr]


def refresh(run: Run, steps: int, seed: int) -> None:
    """Let the policy of an adapted run act as updates with batch statistics see it.

    :param run: it learns nothing afterwards
    :param steps: target states from which statistics are measured
    :param seed: of the first episode
    """
    assert run.adaptation is not None
    run.adaptation.tuner.convert(*visit(run.model, run.visited("target"), steps, seed), preserve_function=False)


def start_problems(
    source: Played, starts: Mapping[str, Played], others: Iterable[str], keep: float, cost_limit: float | None = None
) -> dict[str, str]:
    """The arms that change the policy and do not start clearly above the source, and all that start clearly below one
    that does.

    Where costs are limited, the latter stay: what returns more may cost more.

    :param source: what the source played
    :param starts: name -> what an arm that changes the policy played before it learnt, the same episodes
    :param others: arms that start as the source does
    :param keep: what the source's return counts
    :param cost_limit: largest mean cost of an episode, if there is a limit
    :return: name -> what speaks against it
    """
    found = {}
    for name, played in starts.items():
        gain = lead(played, source, keep)
        if not gain.is_beyond(SURE):
            found[name] = f"does not start clearly above the source: {gain}"
    if cost_limit is not None:
        return found
    above = {name: played for name, played in starts.items() if name not in found}
    for name, played in (dict.fromkeys(others, source) | above).items():
        better = next((other for other in above if lead(above[other], played, keep).is_beyond(SURE)), None)
        if better is not None:
            found[name] = f"starts clearly below {better}: {lead(played, above[better], keep)}"
    return found
