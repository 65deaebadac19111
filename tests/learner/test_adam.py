"""A quick step of Adam is PyTorch's."""

from __future__ import annotations

import copy
from pathlib import Path
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


@pytest.mark.parametrize("first", [Adam, QuickAdam])
@pytest.mark.parametrize("second", [Adam, QuickAdam])
def test_a_saved_state_is_pytorchs_and_goes_on_in_either(first: type[Adam], second: type[Adam], tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in ((4, 3), (4,), ())]
    slopes = [[torch.randn_like(value) for value in start] for _ in range(6)]

    def stepped(parameters: list[nn.Parameter], optimizer: Adam, steps: list[list[torch.Tensor]]) -> dict[str, Any]:
        for step in steps:
            for parameter, slope in zip(parameters, step, strict=True):
                parameter.grad = slope.clone()
            optimizer.step()
        return optimizer.state_dict()

    parameters = [nn.Parameter(value.clone()) for value in start]
    torch.save(stepped(parameters, first(parameters, fused=True), slopes[:3]), tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt")
    assert [state["step"].shape for state in saved["state"].values()] == [()] * 3
    resumed = second(parameters, fused=True)
    resumed.load_state_dict(saved)
    found = stepped(parameters, resumed, slopes[3:])
    plain = [nn.Parameter(value.clone()) for value in start]
    expected = stepped(plain, Adam(plain, fused=True), slopes)
    assert all(torch.equal(one, other) for one, other in zip(parameters, plain, strict=True))
    for index, entries in expected["state"].items():
        assert all(torch.equal(found["state"][index][name], value) for name, value in entries.items())


def test_parameters_that_rest_for_a_while_count_their_own_steps() -> None:
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizer = QuickAdam([{"params": parameters[:2]}, {"params": parameters[2:]}])
    for resting in (None, 0, 2, None, 1):
        for index, parameter in enumerate(parameters):
            parameter.grad = None if index == resting else torch.ones(2)
        optimizer.step()
    assert [float(optimizer.state[parameter]["step"]) for parameter in parameters] == [4.0, 4.0, 4.0]
    twin = copy.deepcopy(optimizer)
    optimizer.step()
    assert [float(state["step"]) for state in twin.state.values()] == [4.0, 4.0, 4.0]
