"""ReLUs in place change no bit, and nothing that somebody else can see."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from sb3_contrib.common.torch_layers import BatchRenorm1d
from torch import nn

from daft_rl.agents import fuse_batch_renorm
from daft_rl.learner.in_place import relus_in_place


class Policy(nn.Module):
    """One network, called as a whole or in parts."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.network = nn.Sequential(*layers)
        fuse_batch_renorm(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


def ordinary() -> list[nn.Module]:
    return [nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 2)]


def renormed() -> list[nn.Module]:
    return [BatchRenorm1d(7), nn.Linear(7, 9), BatchRenorm1d(9), nn.ReLU(), nn.Dropout(0.3), nn.Linear(9, 2)]


def other() -> list[nn.Module]:
    return [nn.ReLU(), nn.Linear(7, 9), nn.Sigmoid(), nn.ReLU(), nn.Linear(9, 9), nn.Tanh(), nn.LayerNorm(9), nn.ReLU()]


def overwritten(policy: Policy, x: torch.Tensor) -> int:
    """How many tensors are written over in a forward pass."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        policy(x)
    return sum(event.count for event in profile.key_averages() if event.key == "aten::relu_")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("layers", "number"), [(ordinary, 2), (renormed, 1), (other, 0)])
def test_outputs_gradients_and_statistics_are_equal_bit_for_bit(layers: Any, number: int, training: bool) -> None:
    torch.manual_seed(0)
    first = Policy(*layers()).train(training)
    second = copy.deepcopy(first)
    x = torch.randn(12, 7)
    results = []
    for policy in (first, second):
        torch.manual_seed(1)
        if policy is second:
            with relus_in_place(policy):
                assert overwritten(copy.deepcopy(policy), x) == number
                torch.manual_seed(1)
                output = policy(x)
        else:
            output = policy(x)
        gradients = torch.autograd.grad(output.square().sum(), list(policy.parameters()))
        results.append([output, *gradients, *policy.buffers()])
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
    assert "forward" not in vars(second.network)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("kind", ["forward_pre_hook", "forward_hook", "full_backward_hook"])
def test_what_a_hook_sees_stays_as_it_is(kind: str, index: int) -> None:
    policy = Policy(nn.Linear(7, 9), nn.ReLU())
    seen: list[Any] = []
    getattr(policy.network[index], f"register_{kind}")(lambda *given: seen.append(given))
    x = torch.randn(12, 7)
    with relus_in_place(policy):
        assert overwritten(policy, x) == 0
        policy(x).sum().backward()
    assert len(seen) == 2 - (kind == "full_backward_hook")


def test_layers_that_are_called_one_by_one_keep_their_outputs() -> None:
    policy = Policy(nn.Linear(7, 9), nn.ReLU())
    x = torch.randn(12, 7)
    with relus_in_place(policy):
        hidden = policy.network[0](x)
        assert torch.equal(policy.network[1](hidden), hidden.clamp(min=0))
        assert (hidden < 0).any()


def test_an_error_inside_leaves_the_networks_as_they_were() -> None:
    policy = Policy(nn.Linear(7, 9), nn.ReLU())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), relus_in_place(policy):
        policy(torch.zeros(2, 3))
    assert "forward" not in vars(policy.network)


def test_a_network_held_twice_and_a_users_forward_are_left_in_order() -> None:
    policy = Policy(nn.Linear(7, 9), nn.ReLU())
    policy.again = policy.network
    own = Policy(nn.Linear(7, 9), nn.ReLU())
    own.network.forward = lambda x: -x  # type: ignore[method-assign]
    x = torch.randn(12, 7)
    with relus_in_place(policy), relus_in_place(own):
        assert overwritten(policy, x) == 1
        assert torch.equal(own(x), -x)
    assert "forward" not in vars(policy.network)
    assert torch.equal(own(x), -x)
