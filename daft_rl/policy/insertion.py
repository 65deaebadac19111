"""BatchNorm for policies that have none, without changing what they compute.

A layer with the statistics ``m, v`` of its input, ``gamma = sqrt(v + eps)`` and ``beta = m`` is the identity in
evaluation mode. Converting a new identity layer to the data gives exactly that. DAFT then treats it like any other.
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
from daft_rl.policy.networks import Networks, optimizer_settings

__all__ = ["insert_batchnorm", "wants_batchnorm"]


def wants_batchnorm(agent: BaseAlgorithm, method: Method, choice: str | bool) -> bool:
    """Whether a transfer should begin with :func:`insert_batchnorm`.

    :param agent: an SB3 algorithm
    :param method: how it will be fine-tuned
    :param choice: true, false, or ``"auto"``: true if the method converts BatchNorm and the policy has none
    :raises AgentError: another value
    """
    if choice not in (True, False, "auto"):
        raise AgentError(
            f"insert_batchnorm: unknown value {choice!r}, expected true, false or auto.",
            arguments=("insert_batchnorm",),
        )
    if choice == "auto":
        return method.conversion != "none" and not batchnorm_layers(agent.policy)
    return bool(choice)


def insert_batchnorm(agent: BaseAlgorithm | BasePolicy, batches: Iterable[Any], on_input: bool = False) -> list[str]:
    """Put BatchNorm before every hidden activation of a policy, as the identity measured on ``batches``, in place.

    Every network gets it: actor, critics, target networks, convolutional extractors. The policy's class becomes
    one of :mod:`daft_rl.agents.policies`. Optimizers keep the state of the parameters that were there.

    :param agent: an SB3 algorithm. A policy alone can be looked at and evaluated afterwards, but its algorithm can
        neither train nor save it: the algorithm keeps lists of running statistics and the class of its policy
    :param batches: observations as tensors that the policy gets, or pairs of observations and scaled actions. Without
        actions, a critic that takes actions gets the actor's
    :param on_input: also normalize observation vectors, before anything else
    :return: names of the new layers of the online networks
    :raises AgentError: the policy is not supported, or there is no place for BatchNorm
    :raises BatchNormError: ``batches`` is empty. The new layers then are the identity, with no statistics
    """
    policy: Any = agent.policy if isinstance(agent, BaseAlgorithm) else agent
    before = set(Networks(policy).batchnorm_modules())
    if not add_batchnorm(policy, on_input):
        raise AgentError(
            f"{type(policy).__name__} has no place for BatchNorm: none of its Sequentials has a linear or "
            "convolutional layer that a torch.nn activation follows directly. Go on without inserting BatchNorm.",
            arguments=("insert_batchnorm",),
        )
    cls: Any = type(policy)
    policy.__class__ = with_batchnorm(cls)
    policy.to(policy.device)
    policy.batchnorm_on_input = on_input or getattr(policy, "batchnorm_on_input", False)
    networks = Networks(policy)
    _extend_optimizers(networks)
    if isinstance(agent, BaseAlgorithm):
        agent.policy_class = type(policy)
        if on_input:
            agent.policy_kwargs = {**agent.policy_kwargs, "batchnorm_on_input": True}
        for attribute, network in networks.layout.statistics.items():
            setattr(agent, attribute, get_parameters_by_name(policy.get_submodule(network), ["running_"]))
    new = [name for name in networks.batchnorm_modules() if name not in before]
    measured = networks.measure(batches)
    networks.apply({name: measured[name] for name in new if name in measured})
    return new


def _extend_optimizers(networks: Networks) -> None:
    """Give the new parameters to the optimizer of their network, in SB3's order."""
    owned = {id(p) for optimizer in networks.optimizers().values() for g in optimizer.param_groups for p in g["params"]}
    for path, optimizer in networks.optimizers().items():
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        parameters = [
            parameter
            for parameter in networks.online_parameters(path)
            if networks.layout.shared_twice or id(parameter) in own or id(parameter) not in owned
        ]
        owned |= {id(parameter) for parameter in parameters}
        fresh = type(optimizer)(parameters, **optimizer_settings(optimizer))
        fresh.state.update(optimizer.state)
        networks.set_optimizer(path, fresh)
