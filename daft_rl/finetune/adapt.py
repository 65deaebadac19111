"""DAFT in one's own script: ``adaptation = adapt(model)``, then ``model.learn(..., callback=adaptation)``.

:func:`adapt` measures the target, inserts or converts BatchNorm, and groups the optimizer's parameters. The
:class:`Adaptation` it returns is an SB3 callback that stays in charge of rates and statistics while the model learns.
``daft_rl.transfer`` does the same with the same function.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Annotated, Any, Literal

from pydantic import Field
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.agents import fuse_batch_renorm
from daft_rl.errors import AgentError, DaftWarning, MethodError
from daft_rl.finetune.checks import check_adaptive_kl
from daft_rl.finetune.realignment import Realignment, at_home, find_input_range, realign
from daft_rl.finetune.target import Data, Target
from daft_rl.finetune.tuner import Tuner, check_method, resolve_method
from daft_rl.method import Method, find_method
from daft_rl.policy.distortion import Distortion, StatisticsDrift
from daft_rl.policy.exploration import bound_exploration
from daft_rl.policy.insertion import insert_batchnorm as insert_batchnorm_layers
from daft_rl.policy.insertion import wants_batchnorm
from daft_rl.policy.networks import Networks
from daft_rl.rollout.buffers import recent_transitions
from daft_rl.rollout.profile import Profile
from daft_rl.validation import Flag, Positive, Seed, Text, Whole, checked

__all__ = ["Adaptation", "adapt"]

SLOWEST_AVERAGE = 0.005
"""Statistics that follow an average over rollouts give a new rollout at least this weight."""


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

    @contextmanager
    def at_home(self) -> Iterator[None]:
        """Inside, a realigned policy acts by the source's means, as in an environment whose sensors have no offset.

        Play there, or save an archive for there. Nothing is to be learnt inside.
        """
        with nullcontext() if self.realigned is None else at_home(self.model, self.realigned):
            yield

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
        if not self.method.learns:
            raise MethodError(
                f"Method '{self.method.name}' learns nothing: leave out model.learn, or use another method."
            )
        self.tuner.attach()
        self.tuner.needs_callback = False

    def _on_training_start(self) -> None:
        # learning may count from 0 again, or from the source's own steps
        self.tuner.start_timesteps = min(self.tuner.start_timesteps, self.model.num_timesteps)
        self._next_conversion = min(self._next_conversion, self.model.num_timesteps + self.calibration_steps)

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
        """What changes while the model learns, beside the policy. :attr:`drift` and :attr:`distortion` do not."""
        return {"tuner": self.tuner.state_dict(), "conversions": (self._next_conversion, self._conversions)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`, on a model that was adapted in the same way."""
        self.tuner.load_state_dict(state["tuner"])
        self._next_conversion, self._conversions = state["conversions"]


@checked(MethodError)
class Options:
    """What :func:`adapt` takes beside model, method and data, checked."""

    calibration_steps: Annotated[int, Field(strict=True, ge=2)]
    held_out_steps: Whole
    seed: Seed | None
    head: Sequence[Text] | None
    critic: Sequence[Text] | None
    insert_batchnorm: Literal["auto"] | Flag
    actor_scale: Positive | None
    adaptive_kl: Positive | None
    kernels: Text
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
    insert_batchnorm: Literal["auto"] | bool = "auto",
    actor_scale: float | None = None,
    adaptive_kl: float | None = None,
    kernels: str = "auto",
    exploration_std: float | None = None,
    profile: Profile | None = None,
) -> Adaptation:
    """Prepare a pretrained model for fine-tuning on the environment it has now (DAFT, AAAI 2024).

    The policy visits states of the target. Then BatchNorm is inserted if the method converts it and there is none,
    inputs are realigned if the method says so, BatchNorm is converted, and optimizers start afresh, in groups.

    :param model: an algorithm of SB3 or sb3-contrib with its own environment, any ``VecEnv``. The statistics of a
        ``VecNormalize`` stay as they are meanwhile
    :param method: the name of a shipped method (:func:`daft_rl.methods`), plain data as in ``configs/method``, or a
        ``Method``
    :param calibration_steps: target states from which statistics are measured
    :param held_out_steps: further states on which feature distortion is measured (``adaptation.distortion``); 0 is none
    :param experience: recorded target data, used instead of visiting: raw observations, array ``(n, *shape)`` or a
        dictionary of such arrays, or a pair of observations and actions ``(n, *action_shape)``. Nothing is stepped then
    :param env: where to visit states, in place of the model's own environment
    :param seed: seeds everything random, as in :func:`daft_rl.transfer`; ``None`` leaves random numbers alone
    :param head: patterns over parameter names (``"action_net.*"``) that are heads, for policies of your own
    :param critic: patterns over parameter names that are the critic's, likewise
    :param insert_batchnorm: ``True``, ``False``, or ``"auto"``
    :param actor_scale: factor on the actor's learning rates; ``None`` is the algorithm's (1, but 0.1 for CrossQ)
    :param adaptive_kl: KL divergence of an update at which PPO's learning rate is kept (0.01 is usual), or ``None``
    :param kernels: what computes updates on a CPU: ``"torch"`` or ``"onednn"``, which ``"auto"`` takes on AMD's
        processors with AVX-512; ``"plain"`` is SB3's own ``train``. They come to the same up to rounding
    :param exploration_std: least standard deviation of the actions of PPO, A2C and TRPO, or of TD3's and DDPG's
        action noise where they have none; ``None`` keeps what is there
    :param profile: where time is counted
    :return: a callback for ``model.learn``, which also tells what was done
    :raises MethodError: an unknown method, or one that cannot be applied to this model
    :raises AgentError: a policy that is not supported, or neither environment nor ``experience``
    """
    _refuse_others(model, profile)
    options = Options(
        calibration_steps=calibration_steps, held_out_steps=held_out_steps, seed=seed, head=head, critic=critic,
        insert_batchnorm=insert_batchnorm, actor_scale=actor_scale, adaptive_kl=adaptive_kl,
        kernels=kernels, exploration_std=exploration_std,
    )  # fmt: skip
    chosen = find_method(method)
    if chosen.race is not None:
        raise MethodError(f"'{chosen.name}' is a race of methods, which daft_rl.transfer holds. Name one method here.")
    target = Target(model, env, experience, seed)
    return _prepare(model, resolve_method(model, chosen), target, options, profile or Profile())


def _refuse_others(model: Any, profile: Any) -> None:
    """
    :raises AgentError: the model is no agent with a policy, or the profile is something else
    """
    if not isinstance(model, BaseAlgorithm):
        raise AgentError(f"model: expected an agent such as PPO.load(...), got {model!r}.")
    if getattr(model, "policy", None) is None:
        raise AgentError("model has no policy: it was made with _init_setup_model=False. Leave that out.")
    if profile is not None and not isinstance(profile, Profile):
        raise AgentError(f"profile: expected a Profile or None, got {profile!r}.")


def _prepare(model: BaseAlgorithm, method: Method, target: Target, options: Options, profile: Profile) -> Adaptation:
    """See :func:`adapt`."""
    realign_env, inserts = _check(model, method, target, options)
    if options.seed is not None:
        model.set_random_seed(options.seed)
    if not bound_exploration(model, options.exploration_std) and options.exploration_std is not None:
        message = f"exploration_std has no effect on this {type(model).__name__}, which explores in its own way."
        warnings.warn(DaftWarning(message, arguments=("exploration_std",)), stacklevel=3)
    fuse_batch_renorm(model.policy)
    with profile("calibration"):
        adaptation = _calibrate(model, method, target, options, profile, realign_env, inserts)
    if options.held_out_steps:
        with profile("evaluation"), _detached_on_error(adaptation):
            held_out = target.visit_held_out(options.held_out_steps)
            adaptation.distortion = Distortion(adaptation.tuner.anatomy, *held_out)
    target.leave()
    adaptation.tuner.needs_callback = True
    _warn_without_batchnorm(adaptation)
    return adaptation


def _check(model: BaseAlgorithm, method: Method, target: Target, options: Options) -> tuple[VecEnv | None, bool]:
    """Refuse what cannot be done before the model changes.

    :return: where realignment plays, if the method realigns, and whether BatchNorm is inserted
    """
    realign_env = None
    if method.realign is not None:
        realign_env = target.for_realignment(method.realign)
        find_input_range(model, method.realign)
    inserts = wants_batchnorm(model, method, options.insert_batchnorm)
    check_method(model, method, options.actor_scale, options.head, options.critic)
    check_adaptive_kl(model, options.adaptive_kl)
    return realign_env, inserts


def _calibrate(
    model: BaseAlgorithm,
    method: Method,
    target: Target,
    options: Options,
    profile: Profile,
    realign_env: VecEnv | None,
    inserts: bool,
) -> Adaptation:
    """Visit the target, then insert, group, realign and convert, in this order."""
    steps = options.calibration_steps
    # insertion needs data of the source; conversion uses them too, unless another policy acts by then
    data = target.visit(steps) if inserts or realign_env is None else None
    inserted = insert_batchnorm_layers(model, Networks(model.policy).batches(*data)) if inserts and data else []
    adaptation = Adaptation(
        model, method, steps,
        head=options.head, critic=options.critic, actor_scale=options.actor_scale, adaptive_kl=options.adaptive_kl,
        kernels=options.kernels, profile=profile,
    )  # fmt: skip
    adaptation.inserted = inserted
    with _detached_on_error(adaptation):
        if realign_env is not None and method.realign is not None:
            adaptation.realigned = realign(model, realign_env, steps, target.visit_seed, method.realign)
        if data is None or method.from_scratch or adaptation.realigned is not None:
            data = target.visit(steps)
        adaptation.convert(data)
    return adaptation


@contextmanager
def _detached_on_error(adaptation: Adaptation) -> Iterator[None]:
    """If the target raises, leave the model an ordinary one: nobody has the adaptation to detach it with."""
    try:
        yield
    except BaseException:
        adaptation.detach()
        raise


def _warn_without_batchnorm(adaptation: Adaptation) -> None:
    method = adaptation.method
    if method.conversion != "none" and not adaptation.converted:
        message = (
            f"Method '{method.name}' converts BatchNorm, and this policy has none: only rates and schedules apply. "
            "insert_batchnorm=True inserts it."
        )
        warnings.warn(DaftWarning(message, arguments=("insert_batchnorm",)), stacklevel=5)
