"""Actions of a squashed Gaussian and their log-probabilities are SB3's, with the same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from daft_rl.learner.squashed_gaussian import SquashedGaussian, act
from tests.conftest import build


@pytest.mark.parametrize("name", ["SAC", "TQC", "CrossQ"])
def test_actions_log_probabilities_and_gradients_are_those_of_sb3(name: str) -> None:
    policy: Any = build(name).policy
    actor = policy.actor.eval()
    actor.log_std.bias.data[:] = torch.tensor([9.0, -1.0])  # the first is clipped
    observations = torch.randn(32, 3)
    results = []
    for how in (actor.action_log_prob, lambda seen: act(actor, seen)):
        torch.manual_seed(0)
        action, log_prob = how(observations)
        gradients = torch.autograd.grad((action.sum(1) + log_prob).sum(), list(actor.parameters()))
        results.append([action, log_prob, *gradients])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    mean, log_std, noise = (torch.randn(5, 2, dtype=torch.float64) for _ in range(3))
    inputs = (mean.requires_grad_(), log_std.requires_grad_())
    assert torch.autograd.gradcheck(lambda *given: SquashedGaussian.apply(*given, noise, 1e-6), inputs)


@pytest.mark.parametrize("name", ["get_action_dist_params", "action_log_prob"])
def test_an_actor_with_a_way_of_its_own_is_asked_itself(name: str) -> None:
    model: Any = build("SAC")
    own = _halved if name == "get_action_dist_params" else lambda actor, seen: (seen[:, :2] * 0.1, seen[:, 0])
    model.actor.__class__ = type("Own", (type(model.actor),), {name: own})
    observations = torch.randn(4, 3)
    torch.manual_seed(0)
    expected = model.actor.action_log_prob(observations)
    torch.manual_seed(0)
    assert all(torch.equal(one, other) for one, other in zip(expected, act(model.actor, observations), strict=True))


@pytest.mark.parametrize("name", ["get_action_dist_params", "action_log_prob"])
def test_an_actor_with_a_method_put_on_the_object_is_asked_itself(name: str) -> None:
    actor = build("SAC").policy.actor  # type: ignore[union-attr]
    asked, method = [], getattr(actor, name)

    def own(seen: torch.Tensor) -> Any:
        asked.append(name)
        return method(seen)

    setattr(actor, name, own)
    act(actor, torch.randn(4, 3))
    assert asked == [name]


def _halved(actor: torch.nn.Module, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, object]]:
    mean, log_std, further = type(actor).__mro__[1].get_action_dist_params(actor, observations)  # type: ignore[attr-defined]
    return mean / 2, log_std, further
