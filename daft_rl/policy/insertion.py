"""BatchNorm for policies that have none, without changing what they compute.

A layer with the statistics ``m, v`` of its input, ``gamma = sqrt(v + eps)`` and ``beta = m`` is the identity in
evaluation mode. That is a new identity layer after BatchNorm conversion, so it is done that way; from then on DAFT
treats it like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import get_parameters_by_name

from daft_rl.agents.policies import add_batchnorm, with_batchnorm
from daft_rl.batchnorm import batchnorm_layers
from daft_rl.errors import AgentError
from daft_rl.method import Method
from daft_rl.policy.anatomy import Networks, optimizer_settings

__all__ = ["insert_batchnorm", "wants_batchnorm"]


def wants_batchnorm(agent: BaseAlgorithm, method: Method, asked: str | bool) -> bool:
    """Whether a transfer should begin with :func:`insert_batchnorm`.

    :param agent: an SB3 algorithm
    :param method: how it is to be moved
    :param asked: ``agent.insert_batchnorm``: true, false, or ``"auto"``, which is true for a policy without BatchNorm
        if the method converts BatchNorm
    :raises AgentError: another value
    """
    if asked not in (True, False, "auto"):
        raise AgentError(f"agent.insert_batchnorm: unknown value {asked!r}, expected true, false or auto.")
    if asked == "auto":
        return method.conversion != "none" and not batchnorm_layers(agent.policy)
    return bool(asked)


def insert_batchnorm(agent: BaseAlgorithm | BasePolicy, batches: Iterable[Any], on_input: bool = False) -> list[str]:
    """Put BatchNorm before every hidden activation of a policy, as the identity measured on ``batches``, in place.

    Every network gets it: actor, critics, target networks, convolutional extractors. The policy's class becomes
    one of :mod:`daft_rl.agents.policies`. Optimizers keep the state of the parameters that were there.

    :param agent: an SB3 algorithm. A policy alone can be given to be looked at or evaluated; to go on learning or to
        be saved, its algorithm has to know, which keeps lists of running statistics and the policy's class
    :param batches: observations as tensors that the policy gets, or pairs of observations and scaled actions;
        without actions, a critic that takes some gets the actor's
    :param on_input: also normalize observation vectors, before anything else
    :return: names of the new layers of the online networks
    :raises AgentError: an unknown kind of policy, or there is no place for BatchNorm
    :raises BatchNormError: ``batches`` is empty. The layers are there then, as the identity, with no statistics
    """
    policy: Any = agent.policy if isinstance(agent, BaseAlgorithm) else agent
    before = set(Networks(policy).batchnorm_modules())
    if not add_batchnorm(policy, on_input):
        raise AgentError(
            f"{type(policy).__name__} has no place for BatchNorm: no torch.nn activation follows a linear or "
            "convolutional layer in a Sequential without BatchNorm in between. To go on without: "
            "agent.insert_batchnorm=false."
        )
    kind: Any = type(policy)
    policy.__class__ = with_batchnorm(kind)
    policy.to(policy.device)
    policy.batchnorm_on_input = on_input or getattr(policy, "batchnorm_on_input", False)
    networks = Networks(policy)
    _extend_optimizers(networks)
    if isinstance(agent, BaseAlgorithm):
        agent.policy_class = type(policy)
        if on_input:
            agent.policy_kwargs = {**agent.policy_kwargs, "batchnorm_on_input": True}
        for listed, network in networks.kind.statistics.items():
            setattr(agent, listed, get_parameters_by_name(policy.get_submodule(network), ["running_"]))
    new = [name for name in networks.batchnorm_modules() if name not in before]
    measured = networks.measure(batches)
    networks.apply({name: measured[name] for name in new if name in measured})
    return new


def _extend_optimizers(networks: Networks) -> None:
    """Give the new parameters to the optimizer of their network, in the order that SB3 would."""
    owned = {id(p) for optimizer in networks.optimizers().values() for g in optimizer.param_groups for p in g["params"]}
    for path, optimizer in networks.optimizers().items():
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        parameters = [
            parameter
            for parameter in networks.online_parameters(path)
            if networks.kind.shared_twice or id(parameter) in own or id(parameter) not in owned
        ]
        owned |= {id(parameter) for parameter in parameters}
        fresh = type(optimizer)(parameters, **optimizer_settings(optimizer))
        fresh.state.update(optimizer.state)
        networks.set_optimizer(path, fresh)
