"""A method is data: what happens to the statistics, and how fast each part of the agent may learn.

DAFT, its ablations and every baseline are files in ``configs/method``; a new method is a new file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from daft_rl.errors import MethodError

__all__ = ["GROUPS", "Group", "Method", "method_names"]

GROUPS = ("actor_encoder", "actor_head", "critic_encoder", "critic_head")
"""The four parameter groups. A features extractor shared by actor and critic belongs to ``actor_encoder``."""

CONFIGS = Path(__file__).resolve().parent / "configs" / "method"


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise MethodError(f"{name}: unknown value {value!r}, expected one of {', '.join(allowed)}.")


def _fraction(name: str, value: float) -> None:
    if not (isinstance(value, int | float) and 0.0 <= value <= 1.0):
        raise MethodError(f"{name}: expected a fraction of the run between 0 and 1, got {value!r}.")


@dataclass(frozen=True, kw_only=True)
class Group:
    """How one group of parameters learns. Its learning rate is ``base rate * scale * schedule``.

    The schedule is a product of three parts over the progress ``t`` from 0 to 1: nothing before
    ``frozen_until``, a linear rise from there to ``rise_until``, and a ``decay`` over the whole run.
    """

    scale: float = 1.0
    """Factor on the algorithm's own learning rate."""
    decay: str = "constant"
    """``constant``, ``linear`` or ``cosine`` (to zero at the end of the run)."""
    frozen_until: float = 0.0
    """Fraction of the run before which the group is frozen; 1 is always frozen."""
    rise_until: float = 0.0
    """Fraction of the run at which the linear rise ends; 0 is no rise."""
    init: str = "keep"
    """Weights at the start: ``keep`` the source's, ``zero`` (heads only) or ``random``."""

    def __post_init__(self) -> None:
        if not (isinstance(self.scale, int | float) and math.isfinite(self.scale) and self.scale >= 0):
            raise MethodError(f"scale: expected a finite number >= 0, got {self.scale!r}.")
        _one_of("decay", self.decay, ("constant", "linear", "cosine"))
        _one_of("init", self.init, ("keep", "zero", "random"))
        _fraction("frozen_until", self.frozen_until)
        _fraction("rise_until", self.rise_until)
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


@dataclass(frozen=True, kw_only=True)
class Method:
    """Settings of one way to move an agent to a target."""

    name: str
    """As in tables and folders."""
    conversion: str = "none"
    """BatchNorm conversion to target statistics: ``none``, ``once`` (before learning) or ``each_rollout``
    (once, then again after each rollout, or for off-policy algorithms after as many steps as were used
    for calibration)."""
    preserve_function: bool = True
    """Whether conversion preserves the function. ``False`` only replaces statistics (AdaBN). With
    ``each_rollout`` they then follow an average over the rollouts, as those of ``VecNormalize`` do: that is
    how to train from random weights, which have no function to preserve."""
    bn_mode: str = "eval"
    """BatchNorm during updates: ``train`` (batch statistics) or ``eval`` (running statistics)."""
    realign: float | None = None
    """Before conversion, inputs whose mean is more than this many of the source's standard deviations from the
    source's take over the target's mean, where that raises the reward (see :mod:`daft_rl.finetune.realignment`)."""
    l2_sp: float = 0.0
    """Coefficient of ``||w - w_start||^2 / 2`` added to the loss (L2-SP; applied after gradient clipping)."""
    actor_encoder: Group = field(default_factory=Group)
    actor_head: Group = field(default_factory=Group)
    critic_encoder: Group = field(default_factory=Group)
    critic_head: Group = field(default_factory=Group)

    def __post_init__(self) -> None:
        _one_of("conversion", self.conversion, ("none", "once", "each_rollout"))
        _one_of("bn_mode", self.bn_mode, ("train", "eval"))
        if not isinstance(self.preserve_function, bool):
            raise MethodError(f"preserve_function: expected true or false, got {self.preserve_function!r}.")
        if not (isinstance(self.l2_sp, int | float) and math.isfinite(self.l2_sp) and self.l2_sp >= 0):
            raise MethodError(f"l2_sp: expected a finite number >= 0, got {self.l2_sp!r}.")
        if self.realign is not None and not (
            isinstance(self.realign, int | float)
            and not isinstance(self.realign, bool)
            and math.isfinite(self.realign)
            and self.realign >= 0
        ):
            raise MethodError(f"realign: expected a finite number >= 0, or null, got {self.realign!r}.")
        if self.realign is not None and self.from_scratch:
            raise MethodError("realign brings inputs back to where the source knows them: it needs the source's actor.")
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

    @property
    def groups(self) -> dict[str, Group]:
        """Group name -> settings."""
        return {name: getattr(self, name) for name in GROUPS}

    @property
    def from_scratch(self) -> bool:
        """Whether an agent acts at random at the start."""
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
        """Whether any parameter ever changes by learning."""
        return not all(group.always_frozen for group in self.groups.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as in a YAML file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Method:
        """Build from plain data, such as a YAML file.

        :raises MethodError: an unknown field, or a value that cannot be
        """
        _check_fields("method", values, cls)
        if "name" not in values:
            raise MethodError("method.name is missing: give the method a name, by which its results are told apart.")
        groups = {}
        for name in GROUPS:
            if name in values and not isinstance(values[name], Group):
                settings = values[name] or {}
                _check_fields(f"method.{name}", settings, Group)
                groups[name] = Group(**settings)
        return cls(**{**values, **groups})


def _check_fields(where: str, values: Any, cls: type) -> None:
    known = [f.name for f in fields(cls)]
    if not isinstance(values, Mapping):
        raise MethodError(f"{where}: expected fields and values, got {values!r}. What exists: {', '.join(known)}.")
    for name in values:
        if name not in known:
            raise MethodError(f"{where}.{name} does not exist. What exists: {', '.join(known)}.")


def method_names() -> list[str]:
    """The methods that are shipped."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))
