"""A quick step of Adam is PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Adam
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from daft_rl.learner.adam import QuickAdam


def stepped(cls: type[Adam], **settings: Any) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Parameters and state after three steps. The last parameter has no gradient at first."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape)) for shape in ((4, 3), (4,), ())]
    groups: list[dict[str, Any]] = [{"params": parameters[:1], "lr": 0.1}, {"params": parameters[1:]}]
    optimizer = cls(groups, **settings)
    for step in range(3):
        for parameter in parameters[: 2 + step]:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return [parameter.detach() for parameter in parameters], optimizer.state_dict()


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}, {"amsgrad": True}])
def test_a_quick_step_equals_the_fused_step(settings: dict[str, Any]) -> None:
    expected, state = stepped(Adam, fused=True, **settings)
    found, own = stepped(QuickAdam, fused=True, **settings)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert own["param_groups"] == state["param_groups"]
    for index, entries in state["state"].items():
        assert all(torch.equal(own["state"][index][name], value) for name, value in entries.items())


def test_hooks_run_before_and_after_a_quick_step() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = QuickAdam([parameter])
    parameter.grad = torch.ones(2)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(parameter.detach().clone()))
    optimizer.register_step_post_hook(lambda *_: seen.append(parameter.detach().clone()))
    optimizer.step()
    assert torch.equal(seen[0], torch.ones(2))
    assert torch.equal(seen[1], parameter)


def test_hooks_on_all_optimizers_run_around_a_quick_step() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = QuickAdam([parameter])
    parameter.grad = torch.ones(2)
    seen: list[str] = []
    before = register_optimizer_step_pre_hook(lambda *_: seen.append("before"))
    after = register_optimizer_step_post_hook(lambda *_: seen.append("after"))
    optimizer.step()
    before.remove()
    after.remove()
    assert seen == ["before", "after"]


def test_parameters_of_two_precisions_are_stepped_as_by_pytorch() -> None:
    results = []
    for cls in (Adam, QuickAdam):
        parameters = [nn.Parameter(torch.ones(2, dtype=dtype)) for dtype in (torch.float32, torch.float64)]
        optimizer = cls(parameters, fused=True)
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 0.3)
        optimizer.step()
        results.append(parameters)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_a_closure_is_called() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = QuickAdam([parameter])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 2.0
    assert not torch.equal(parameter, torch.ones(2))
