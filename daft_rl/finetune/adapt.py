"""DAFT in one's own script: ``adaptation = adapt(model)``, then ``model.learn(..., callback=adaptation)``.

:func:`adapt` measures the target, inserts or converts BatchNorm, and groups the optimizer's parameters. The
:class:`Adaptation` it returns is an SB3 callback that stays in charge of rates and statistics while the model learns.
``daft_rl.transfer`` does the same with the same function.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.agents import fuse_batch_renorm
from daft_rl.errors import DaftWarning, MethodError
from daft_rl.finetune.realignment import Realignment, find_input_range, realign
from daft_rl.finetune.target import Data, Target
from daft_rl.finetune.tuner import Tuner, check_method
from daft_rl.method import Method, find_method
from daft_rl.policy.distortion import Distortion, StatisticsDrift
from daft_rl.policy.exploration import bound_exploration
from daft_rl.policy.insertion import insert_batchnorm as insert_batchnorm_layers
from daft_rl.policy.insertion import wants_batchnorm
from daft_rl.policy.networks import Networks
from daft_rl.rollout.buffers import recent_transitions
from daft_rl.rollout.profile import Profile
from daft_rl.validation import Count, Positive, Seed, Whole, checked

__all__ = ["Adaptation", "adapt"]

SLOWEST_AVERAGE = 0.005
"""Least share of a new rollout where statistics follow an average over rollouts."""


class Adaptation(BaseCallback):
    """One model being adapted by one method. Pass it to ``model.learn`` as a callback.

    It sets learning rates, frozen groups and BatchNorm modes of each update, converts again if the method says so, and
    detaches itself at the end of learning. A second ``learn(reset_num_timesteps=False)`` with it goes on. As a context
    manager it detaches at the end of the block, also after an error.

    Use :func:`adapt` to make one.

    :param model: an SB3 algorithm object
    :param method: settings of the adaptation
    :param calibration_steps: how much data an off-policy algorithm converts again with
    :param tuning: further arguments of :class:`~daft_rl.finetune.tuner.Tuner`
    """

    def __init__(self, model: BaseAlgorithm, method: Method, calibration_steps: int, **tuning: Any) -> None:
        super().__init__()
        self.drift = StatisticsDrift(model.policy)
        """Measures how far running statistics have moved."""
        self.tuner = Tuner(model, method, **tuning)
        self.calibration_steps = calibration_steps
        self.inserted: list[str] = []
        """BatchNorm layers that were inserted."""
        self.converted: list[str] = []
        """BatchNorm layers that were converted to target statistics before learning."""
        self.realigned: Realignment | None = None
        """What realignment did, if the method realigns."""
        self.distortion: Distortion | None = None
        """Measures how far features have moved, if states were held out for that."""
        self._next_conversion, self._conversions = calibration_steps, 1

    @property
    def method(self) -> Method:
        """The method, with ``auto`` replaced by what the algorithm needs."""
        return self.tuner.method

    @property
    def groups(self) -> dict[str, list[str]]:
        """Group -> names of its parameters."""
        return {name: list(parameters) for name, parameters in self.tuner.anatomy.groups.items()}

    def convert(self, data: Data) -> None:
        """Convert BatchNorm to the statistics of this data, if the method converts."""
        if self.method.conversion != "none":
            self.converted = list(self.tuner.convert(*data))

    def detach(self) -> None:
        """Make the model an ordinary one again. It keeps what it has learnt."""
        self.tuner.detach()

    def __enter__(self) -> Adaptation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _init_callback(self) -> None:
        if self.model is not self.tuner.model:
            raise MethodError(
                f"This adaptation belongs to another {type(self.tuner.model).__name__}: adapt each model by itself."
            )
        self.tuner.attach()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.method.conversion != "each_rollout":
            return
        if not isinstance(self.model, OnPolicyAlgorithm):  # whose rollouts are single steps
            if self.num_timesteps < self._next_conversion:
                return
            self._next_conversion = self.num_timesteps + self.calibration_steps
        self._conversions += 1
        weight = max(1 / self._conversions, SLOWEST_AVERAGE)
        with self.tuner.profile("calibration"):
            self.tuner.reconvert(*recent_transitions(self.model, self.calibration_steps), weight)

    def _on_training_end(self) -> None:
        self.detach()

    def state_dict(self) -> dict[str, Any]:
        """What the adaptation needs to go on, beside the policy."""
        return {
            "tuner": self.tuner.state_dict(),
            "drift": self.drift.state_dict(),
            "distortion": None if self.distortion is None else self.distortion.state_dict(),
            "conversions": (self._next_conversion, self._conversions),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.tuner.load_state_dict(state["tuner"])
        self.drift.load_state_dict(state["drift"])
        if self.distortion is not None:
            self.distortion.load_state_dict(state["distortion"])
        self._next_conversion, self._conversions = state["conversions"]


@checked(MethodError)
class Options:
    """The numbers and flags that :func:`adapt` takes, checked."""

    calibration_steps: Count
    held_out_steps: Whole
    seed: Seed | None
    actor_scale: Positive | None
    exploration_std: Positive | None


def adapt(
    model: BaseAlgorithm,
    method: str | Mapping[str, Any] | Method = "daft",
    *,
    calibration_steps: int = 8192,
    held_out_steps: int = 0,
    experience: Any = None,
    env: VecEnv | None = None,
    seed: int | None = None,
    head: Sequence[str] | None = None,
    critic: Sequence[str] | None = None,
    insert_batchnorm: bool | str = "auto",
    actor_scale: float | None = None,
    exploration_std: float | None = None,
    profile: Profile | None = None,
) -> Adaptation:
    """Prepare a pretrained model for fine-tuning on the environment it has now (DAFT, AAAI 2024).

    The policy visits states of the target. Then BatchNorm is inserted where the method converts it and the policy has
    none, inputs are realigned if the method says so, BatchNorm is converted, and the optimizers start afresh with one
    parameter group per part of the agent (encoder and head of actor and critic)::

        model = PPO.load("agent.zip", env=my_shifted_env)
        adaptation = daft_rl.adapt(model, method="daft")
        model.learn(200_000, callback=[adaptation, my_callback])

    :param model: an algorithm of SB3 or sb3-contrib with its own environment (any ``VecEnv``, with or without a
        ``VecNormalize``, whose statistics stay as they are meanwhile)
    :param method: the name of a shipped method (:func:`daft_rl.methods`), plain data as in ``configs/method``, or a
        ``Method``
    :param calibration_steps: target states from which statistics are measured
    :param held_out_steps: further states on which feature distortion is measured (``adaptation.distortion``); 0 is none
    :param experience: recorded target data, used instead of visiting: raw observations, array ``(n, *shape)`` or a
        dictionary of such arrays, or a pair of observations and actions ``(n, *action_shape)``. Nothing is stepped then
    :param env: where to visit states, if not in the model's own environment: raw observations, no ``VecNormalize``
    :param seed: seeds everything random, as ``seed`` of :func:`daft_rl.transfer` does; ``None`` leaves random numbers
        alone
    :param head: patterns over parameter names (``"action_net.*"``) that are heads, where a policy of your own is not
        laid out like SB3's
    :param critic: patterns over parameter names that are the critic's, likewise
    :param insert_batchnorm: ``True``, ``False``, or ``"auto"``
    :param actor_scale: factor on the actor's learning rates; ``None`` is the algorithm's (1, but 0.1 for CrossQ)
    :param exploration_std: least standard deviation of a Gaussian policy's actions; ``None`` keeps the policy's
    :param profile: where time is counted
    :return: a callback for ``model.learn``, which also tells what was done
    :raises MethodError: an unknown method, or one that cannot be applied to this model, which has not changed then
    :raises AgentError: a policy that is not supported, or neither environment nor ``experience``
    """
    settings = find_method(method)
    Options(
        calibration_steps=calibration_steps, held_out_steps=held_out_steps, seed=seed, actor_scale=actor_scale,
        exploration_std=exploration_std,
    )  # fmt: skip
    profile = profile or Profile()
    target = Target(model, env, experience, seed)
    realign_env = None
    if settings.realign is not None:
        realign_env = target.for_realignment(settings.realign)
        find_input_range(model, settings.realign)
    inserts = wants_batchnorm(model, settings, insert_batchnorm)
    check_method(model, settings, actor_scale, head, critic)
    if seed is not None:
        model.set_random_seed(seed)
    bound_exploration(model, exploration_std)
    fuse_batch_renorm(model.policy)
    with profile("calibration"):
        # the source visits first; its data serve insertion, and conversion unless the policy changes in between
        data = target.visit(calibration_steps) if inserts or realign_env is None else None
        inserted = insert_batchnorm_layers(model, Networks(model.policy).batches(*data)) if inserts and data else []
        adaptation = Adaptation(
            model, settings, calibration_steps, actor_scale=actor_scale, head=head, critic=critic, profile=profile
        )
        adaptation.inserted = inserted
        if realign_env is not None and settings.realign is not None:
            visit_seed = None if seed is None else seed + 1
            adaptation.realigned = realign(model, realign_env, calibration_steps, visit_seed, settings.realign)
        if data is None or settings.from_scratch or adaptation.realigned is not None:
            data = target.visit(calibration_steps)
        adaptation.convert(data)
    if held_out_steps:
        with profile("evaluation"):
            adaptation.distortion = Distortion(adaptation.tuner.anatomy, *target.visit_held_out(held_out_steps))
    target.leave()
    if adaptation.method.conversion != "none" and not adaptation.converted:
        warnings.warn(
            f"Method '{settings.name}' converts BatchNorm, and this policy has none: only rates and schedules apply. "
            "insert_batchnorm=True inserts it.",
            DaftWarning,
            stacklevel=2,
        )
    return adaptation
