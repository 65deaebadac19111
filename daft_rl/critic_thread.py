"""The critic's backward pass beside the actor's, on another core, with the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import Tensor, nn

from daft_rl.envs.cores import spare_core

__all__ = ["critic_thread", "has_own_critic"]


def has_own_critic(model: BaseAlgorithm) -> bool:
    """Whether one loss teaches an actor and a critic that share nothing, as that of PPO and A2C.

    :param model: any SB3 algorithm object
    """
    policy: Any = model.policy
    if not isinstance(model, PPO | A2C) or type(policy).evaluate_actions is not ActorCriticPolicy.evaluate_actions:
        return False
    if type(policy.mlp_extractor) is not MlpExtractor:
        return False
    actor = (policy.pi_features_extractor, policy.mlp_extractor.policy_net)
    critic = (policy.vf_features_extractor, policy.mlp_extractor.value_net)
    of_actor, of_critic = (chain.from_iterable(part.parameters() for part in parts) for parts in (actor, critic))
    return not set(of_actor) & set(of_critic)


@contextmanager
def critic_thread(model: BaseAlgorithm) -> Iterator[None]:
    """While it is entered, gradients of the critic are computed in a thread of their own, where that takes less time:
    on a CPU of which a core may be idle, for :func:`has_own_critic`.

    What the critic says is cut off the loss. When the backward pass arrives there, the thread goes on through the
    critic, and the pass ends when both have. An update of the default transfer takes a tenth less time
    (``benchmarks/README.md``).

    :param model: any SB3 algorithm object
    """
    helps = model.device.type == "cpu" and torch.get_num_threads() == 1 and spare_core()
    if not (helps and has_own_critic(model)):
        yield
        return

    def cut(_: nn.Module, __: Any, values: Tensor) -> Tensor | None:
        if not values.requires_grad:  # nothing learns from them
            return None

        def go_on(leaf: Tensor) -> None:
            critic = executor.submit(torch.autograd.backward, values, leaf.grad)
            torch.autograd.Variable._execution_engine.queue_callback(critic.result)  # type: ignore[attr-defined]

        leaf = values.detach().requires_grad_()
        leaf.register_post_accumulate_grad_hook(go_on)
        return leaf

    policy: Any = model.policy
    with ThreadPoolExecutor(1, "critic") as executor:
        hook = policy.value_net.register_forward_hook(cut)
        try:
            yield
        finally:
            hook.remove()
