"""A policy alone, as behaviour cloning leaves it, put into an algorithm that can go on learning with it."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from daft_rl.agents.algorithms import ALGORITHMS, find_algorithm, find_layout
from daft_rl.archives.build import Request, as_batch
from daft_rl.archives.checks import wrap_errors
from daft_rl.archives.hyperparameters import check_hyperparameters, constructor_arguments
from daft_rl.archives.space_checks import check_space
from daft_rl.errors import AgentError

__all__ = ["wrap_policy"]

_OF_THE_ALGORITHM = {"observation_space", "action_space", "lr_schedule"}
"""Arguments of a policy's constructor that the algorithm passes."""
_OF_EVERY_CLASS = {
    *("__init__", "__module__", "__doc__", "__qualname__", "__firstlineno__", "__static_attributes__"),
    *("_abc_impl", "__abstractmethods__", "__parameters__"),
}
"""Attributes of a class that has a constructor of its own, and nothing else."""


def wrap_policy(policy: BasePolicy, request: Request) -> BaseAlgorithm:
    """A new agent whose policy computes what this one does. Its optimizer starts afresh.

    :param policy: stays as it is
    :param request: what the user asks for; it needs an algorithm and an environment
    :raises AgentError: something is missing, or does not fit
    """
    cls, overrides = _find_class(policy, request), dict(request.overrides)
    name = type(policy).__name__
    if request.env is None:
        raise AgentError(f"A policy alone ({name}) learns in no environment. Pass env=...", arguments=("env",))
    if request.activation is not None or request.correspondence is not None:
        raise AgentError("activation=... and correspondence=... are for archives; a policy is taken as it is.")
    check_hyperparameters(cls, overrides)
    venv = cls._wrap_env(as_batch(request.env))
    for what in ("observation", "action"):
        check_space("The policy", what, getattr(policy, f"{what}_space"), getattr(venv, f"{what}_space"), adapts=False)
    kwargs = _constructor_arguments(policy)
    uses_sde = kwargs.pop("use_sde", False)
    if "use_sde" in constructor_arguments(cls):
        overrides.setdefault("use_sde", uses_sde)
    with wrap_errors(f"The policy ({name}) cannot be put into {cls.__name__}", "Pass policy_kwargs=..."):
        kind: Any = overrides.pop("policy", None) or _class_with_behaviour(type(policy))
        kwargs |= request.policy_kwargs or {}
        model = cls(kind, venv, policy_kwargs=kwargs, device=request.device, **overrides)
        model.policy.load_state_dict(policy.state_dict())
        if model.use_sde:
            model.policy.reset_noise()  # type: ignore[operator]
    return model


def _find_class(policy: BasePolicy, request: Request) -> type[BaseAlgorithm]:
    """The class of the algorithm that is asked for.

    :raises AgentError: none is, or one that has other policies
    """
    layout = find_layout(policy)
    if request.cls is not None and find_algorithm(request.cls).layout == layout:
        return request.cls
    fitting = [entry.name for entry in ALGORITHMS.values() if entry.layout == layout and entry.adapts]
    given = "" if request.cls is None else f", not {request.cls.__name__}"
    raise AgentError(
        f"A policy alone ({type(policy).__name__}) has no algorithm. Pass algo={fitting[0]!r}, or another of "
        f"{', '.join(fitting)}{given}.",
        arguments=("algo",),
    )


def _constructor_arguments(policy: BasePolicy) -> dict[str, Any]:
    """The arguments of the policy's constructor that are its own, and ``use_sde``."""
    arguments = policy._get_constructor_parameters()
    if hasattr(policy, "share_features_extractor"):
        arguments["share_features_extractor"] = policy.share_features_extractor
    # what a policy without gSDE is not asked for is None
    return {name: value for name, value in arguments.items() if name not in _OF_THE_ALGORITHM and value is not None}


def _class_with_behaviour(cls: type[BasePolicy]) -> type[BasePolicy]:
    """The first class that is SB3's or has more than a constructor of its own, which may only fix some arguments.

    ``imitation`` clones into such a class; without it, the saved agent needs no package but SB3.
    """
    for base in cls.__mro__:
        if (
            base.__module__.startswith(("stable_baselines3.", "sb3_contrib."))
            or not vars(base).keys() <= _OF_EVERY_CLASS
        ):
            return base
    return cls
