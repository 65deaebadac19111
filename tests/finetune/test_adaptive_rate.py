"""The learning rate that follows the KL divergence of PPO's updates."""

from __future__ import annotations

from typing import Any

import pytest

from daft_rl.errors import MethodError
from daft_rl.finetune import adapt
from daft_rl.finetune.adaptive_rate import FASTEST, SLOWEST, AdaptiveRate
from tests.conftest import build


@pytest.mark.parametrize(
    ("divergence", "factor"), [(0.021, 1 / 1.5), (0.02, 1.0), (0.01, 1.0), (0.005, 1.0), (0.0049, 1.5), (0.0, 1.0)]
)
def test_a_step_that_is_too_large_or_too_small_changes_the_rate(divergence: float, factor: float) -> None:
    rate = AdaptiveRate(0.01)
    rate.adjust(divergence, 3e-4)
    assert rate.factor == factor


def test_the_rate_stays_within_bounds() -> None:
    rate = AdaptiveRate(0.01)
    for _ in range(30):
        rate.adjust(1.0, 3e-4)
    assert rate.factor * 3e-4 == pytest.approx(SLOWEST)
    for _ in range(60):
        rate.adjust(1e-6, 3e-4)
    assert rate.factor * 3e-4 == pytest.approx(FASTEST)


def test_a_decay_of_the_rate_is_not_undone() -> None:
    rate = AdaptiveRate(0.01)
    rate.adjust(0.01 * 0.1**2, 3e-4, slowed=0.1)  # a tenth of the rate moves the policy a hundredth as far
    assert rate.factor == 1.0


def learnt_rates(adaptive_kl: float | None) -> tuple[list[float], Any]:
    """The learning rates of four updates, and the tuner."""
    model: Any = build("PPO")
    tuner = adapt(model, "ft", calibration_steps=64, seed=0, adaptive_kl=adaptive_kl).tuner
    before_update, used = tuner.before_update, []

    def noting(optimizers: list[Any]) -> None:
        before_update(optimizers)
        used.append(optimizers[0].param_groups[0]["lr"])

    tuner.before_update = noting  # type: ignore[method-assign]
    tuner.needs_callback = False
    model.learn(256)
    return used, tuner


@pytest.mark.parametrize(("target", "step"), [(1e-9, 1 / 1.5), (1e3, 1.5)])
def test_each_update_takes_the_rate_that_the_last_one_suggests(target: float, step: float) -> None:
    plain, _ = learnt_rates(None)
    adaptive, tuner = learnt_rates(target)
    factors = [after / before for after, before in zip(adaptive, plain, strict=True)]
    assert factors == pytest.approx([step**i for i in range(4)])
    state = tuner.state_dict()
    assert state["rate"] == {"factor": pytest.approx(step**4)}


def test_algorithms_that_measure_no_divergence_refuse() -> None:
    with pytest.raises(MethodError, match="is for PPO"):
        adapt(build("A2C"), "ft", calibration_steps=64, adaptive_kl=0.01)
