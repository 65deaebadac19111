"""A method is data: what happens to the statistics, and how fast each part of the agent may learn.

DAFT, its ablations and every baseline are files in ``configs/method``; a new method is a new file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from daft_rl.errors import MethodError
from daft_rl.race import Race
from daft_rl.validation import Flag, Fraction, NonNegative, Text, checked, plain_data, unknown_name

__all__ = ["GROUPS", "Group", "Method", "find_method", "methods"]

GROUPS = ("actor_encoder", "actor_head", "critic_encoder", "critic_head")
"""The four parameter groups. A features extractor shared by actor and critic belongs to ``actor_encoder``."""

CONFIGS = Path(__file__).resolve().parent / "configs" / "method"


@checked(MethodError)
class Group:
    """How one group of parameters learns. Its learning rate is ``base rate * scale * schedule``.

    The schedule is a product of three parts over the progress ``t`` from 0 to 1: zero before ``frozen_until``, a
    linear rise from there to ``rise_until``, and a ``decay`` over the whole run.
    """

    scale: NonNegative = 1.0
    """Factor on the algorithm's own learning rate."""
    decay: Literal["constant", "linear", "cosine", "auto"] = "constant"
    """``linear`` and ``cosine`` end at zero at the end of the run. ``auto`` is the algorithm's: ``cosine``, but
    ``constant`` for DQN and QRDQN, whose actions follow the values, and whose values have to catch up."""
    frozen_until: Fraction = 0.0
    """Fraction of the run before which the group is frozen. 1 freezes it for the whole run."""
    rise_until: Fraction = 0.0
    """Fraction of the run at which the linear rise ends. 0 means no rise."""
    init: Literal["keep", "zero", "random"] = "keep"
    """Initial weights: those of the source, zero (heads only), or random."""

    def __post_init__(self) -> None:
        if 0.0 < self.rise_until <= self.frozen_until:
            raise MethodError(
                f"rise_until={self.rise_until} must come after frozen_until={self.frozen_until}, or be 0 for no rise."
            )

    def rate(self, progress: float) -> float:
        """Factor on the base learning rate.

        :param progress: fraction of the run that is done, 0 to 1
        """
        if self.frozen(progress):
            return 0.0
        rise = 1.0
        if self.rise_until:
            rise = min(1.0, (progress - self.frozen_until) / (self.rise_until - self.frozen_until))
        decay = {
            "constant": 1.0,
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        }[self.decay]
        return self.scale * rise * max(decay, 0.0)

    def frozen(self, progress: float) -> bool:
        """Whether nothing of the group may change: no gradient, no weight decay, no statistics."""
        return self.always_frozen or progress < self.frozen_until

    @property
    def always_frozen(self) -> bool:
        """Whether the group never learns."""
        return self.scale == 0.0 or self.frozen_until == 1.0


@checked(MethodError, "method")
class Method:
    """Settings of one way to move an agent to a target (DAFT, AAAI 2024, and its baselines)."""

    name: Text
    """As in tables and folders."""
    conversion: Literal["none", "once", "each_rollout", "auto"] = "none"
    """When BatchNorm is converted to target statistics: never, ``once`` before learning, or ``each_rollout`` (once, and
    again after each rollout; off-policy algorithms convert again after as many steps as calibration took). ``auto`` is
    the algorithm's way to train from random weights: ``each_rollout``, but ``none`` for CrossQ."""
    preserve_function: Flag = True
    """Whether conversion preserves the function. ``False`` only replaces the statistics (AdaBN). With ``each_rollout``
    they then follow an average over rollouts, as in ``VecNormalize``. Use this to train from random weights, which have
    no function to preserve."""
    bn_mode: Literal["train", "eval", "auto"] = "eval"
    """BatchNorm during updates: ``train`` uses batch statistics, ``eval`` running statistics. ``auto`` is the
    algorithm's: ``eval``, but ``train`` for CrossQ, whose critics need batch statistics."""
    realign: NonNegative | None = None
    """Before conversion, inputs whose mean is more than this many of the source's standard deviations from the source's
    mean take the target's mean, if that raises the reward (see :mod:`daft_rl.finetune.realignment`)."""
    keep_source: Flag = True
    """Whether a realigned policy acts by the source's means outside of the target, where sensors have no offset.
    ``final_at_home.zip`` is the policy with these means."""
    l2_sp: NonNegative = 0.0
    """Coefficient of ``||w - w_start||^2 / 2``, added to the loss (L2-SP). It is applied after gradient clipping."""
    actor_encoder: Group = field(default_factory=Group)
    actor_head: Group = field(default_factory=Group)
    critic_encoder: Group = field(default_factory=Group)
    critic_head: Group = field(default_factory=Group)
    race: Race | None = None
    """The methods that race, if this is a race and not a method. All other fields are theirs then."""

    def __post_init__(self) -> None:
        if (
            not self.name.strip(" .")
            or len(self.name) > 100
            or not self.name.isprintable()
            or set("/\\") & {*self.name}
        ):
            raise MethodError(f"method.name: expected a name that a folder can have, got {self.name[:200]!r}.")
        if self.realign is not None and self.from_scratch:
            raise MethodError(
                "realign moves inputs back to the range that the source's actor knows, so keep the actor."
            )
        for name in ("actor_encoder", "critic_encoder"):
            if getattr(self, name).init == "zero":
                raise MethodError(f"{name}.init=zero would switch the agent off: only heads can start at zero.")
        if self.conversion == "each_rollout" and self.bn_mode == "train":
            raise MethodError(
                "conversion=each_rollout needs bn_mode=eval: in training mode the layers move their own statistics."
            )
        if self.l2_sp and self.conversion == "each_rollout":
            raise MethodError(
                "l2_sp needs fixed weights to stay close to, and conversion=each_rollout rewrites them: "
                "use conversion=once or none."
            )
        if self.race is not None:
            _check_race(self)

    def resolve(self, bn_mode: str, scratch_conversion: str, decay: Literal["cosine", "constant"]) -> Method:
        """The same method with ``auto`` replaced by what an algorithm needs.

        :param bn_mode: the algorithm's mode of BatchNorm in updates, ``"eval"`` or ``"train"``
        :param scratch_conversion: the algorithm's conversion when it trains from random weights
        :param decay: of the algorithm's learning rates
        """
        if self.race is not None:
            arms = tuple(arm.resolve(bn_mode, scratch_conversion, decay).as_dict() for arm in self.arms)
            return replace(self, race=replace(self.race, arms=arms))
        own: dict[str, Any] = {"bn_mode": bn_mode, "conversion": scratch_conversion}
        resolved = {name: value for name, value in own.items() if getattr(self, name) == "auto"}
        for name, group in self.groups.items():
            if group.decay == "auto":
                resolved[name] = replace(group, decay=decay)
        return replace(self, **resolved)

    @property
    def arms(self) -> tuple[Method, ...]:
        """The methods that race; of any other method, itself."""
        return (self,) if self.race is None else tuple(find_method(arm) for arm in self.race.arms)

    @property
    def groups(self) -> dict[str, Group]:
        """Group name -> settings."""
        return {name: getattr(self, name) for name in GROUPS}

    @property
    def from_scratch(self) -> bool:
        """Whether the agent acts at random at the start."""
        return all(group.init == "random" for name, group in self.groups.items() if name.startswith("actor"))

    @property
    def initializes(self) -> bool:
        """Whether anything starts from other weights than the source's."""
        return any(group.init != "keep" for group in self.groups.values())

    @property
    def changes_function(self) -> bool:
        """Whether the agent is another function before it learns, realignment aside."""
        return self.initializes or (self.conversion != "none" and not self.preserve_function)

    @property
    def learns(self) -> bool:
        """Whether learning ever changes a parameter."""
        return self.race is not None or not all(group.always_frozen for group in self.groups.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as in a YAML file."""
        return plain_data(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Method:
        """Build a method from plain data, such as ``yaml.safe_load`` of a file.

        :raises MethodError: an unknown field, or an impossible value
        """
        if not isinstance(values, Mapping):
            raise MethodError(f"method: expected fields and values, got {values!r}.")
        if "name" not in values:
            raise MethodError("method.name is missing: results of different methods are told apart by name.")
        # a group left empty in YAML is a group with its defaults
        return cls(**{str(key): {} if key in GROUPS and value is None else value for key, value in values.items()})


def _check_race(method: Method) -> None:
    """
    :raises MethodError: an arm is no method that learns, two have one name, or fields stand outside of the arms
    """
    plain = Method(name=method.name)
    given = [part.name for part in fields(Method) if getattr(method, part.name) != getattr(plain, part.name)]
    outside = [name for name in given if name != "race"]
    if outside:
        raise MethodError(
            f"'{method.name}' is a race of methods: {outside[0]} belongs into its arms. "
            "Set it there, or choose one method, such as daft."
        )
    names = [arm.name for arm in method.arms]
    if not names:
        raise MethodError("method.race.arms is empty: name methods, the preferred one first.")
    for arm in method.arms:
        if names.count(arm.name) > 1:
            raise MethodError(f"method.race.arms: '{arm.name}' is there twice. Give each arm a name of its own.")
        if arm.race is not None or not arm.learns:
            problem = "is a race itself" if arm.race is not None else "learns nothing"
            raise MethodError(f"method.race.arms: '{arm.name}' {problem}. Name methods that learn.")


def methods() -> list[str]:
    """Names of the methods that are shipped (``configs/method``)."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@cache
def _read(name: str) -> Method:
    return Method.from_dict(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text("utf-8")))


def find_method(method: str | Mapping[str, Any] | Method) -> Method:
    """A method from any way to write one.

    :param method: the name of a shipped method, plain data, or a ``Method``
    :raises MethodError: an unknown name or field, or an impossible value
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        if method not in methods():
            raise MethodError(unknown_name("method", method, methods()))
        return _read(method)
    return Method.from_dict(method)
