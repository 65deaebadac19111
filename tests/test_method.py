"""Methods are data: every shipped file is valid, schedules have their shapes, nonsense is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daft_rl.agents.algorithms import ALGORITHMS
from daft_rl.errors import MethodError
from daft_rl.method import GROUPS, Group, Method, find_method, methods

REQUIRED = {
    "zero_shot", "scratch", "ft", "ft_eval", "lp", "lp_ft", "l2_sp", "daft_paper", "daft",
    "daft_conversion_only", "daft_fast_head_only", "adabn", "daft_gradual", "daft_realign",
}  # fmt: skip


def load(name: str, algo: str = "PPO") -> Method:
    """A shipped method as an algorithm takes it."""
    algorithm = ALGORITHMS[algo]
    return find_method(name).resolve(algorithm.bn_mode, algorithm.scratch_conversion, algorithm.decay)


@pytest.mark.parametrize("name", methods())
def test_shipped_methods_are_valid(name: str) -> None:
    method = load(name)
    assert method.name == name
    assert Method.from_dict(method.as_dict()) == method


def test_all_methods_are_there() -> None:
    assert set(methods()) >= REQUIRED


def test_what_distinguishes_the_methods() -> None:
    assert not load("zero_shot").learns
    assert load("lp").actor_encoder.always_frozen
    assert load("lp").critic_encoder.always_frozen
    assert load("lp_ft").actor_encoder.frozen(0.49)
    assert not load("lp_ft").actor_encoder.frozen(0.5)
    assert (load("ft").bn_mode, load("ft_eval").bn_mode) == ("train", "eval")
    assert load("l2_sp").l2_sp == 0.01
    paper = load("daft_paper")
    assert (paper.conversion, paper.bn_mode) == ("once", "train")
    assert paper.actor_encoder.scale < paper.actor_head.scale
    assert load("daft_fast_head_only").conversion == "none"
    assert load("daft_fast_head_only").groups == paper.groups
    only = load("daft_conversion_only")
    assert (only.conversion, only.bn_mode) == ("once", "train")
    assert len({group.scale for group in only.groups.values()}) == 1
    for algo, decay in {
        "PPO": "cosine",
        "SAC": "cosine",
        "CrossQ": "cosine",
        "DQN": "constant",
        "QRDQN": "constant",
    }.items():
        assert {group.decay for name in ("daft", "ft") for group in load(name, algo).groups.values()} == {decay}
    for name in ("daft", "daft_gradual"):
        assert [load(name, algo).bn_mode for algo in ("PPO", "SAC", "CrossQ")] == ["eval", "eval", "train"]
    assert load("daft_realign") == replace(load("daft"), name="daft_realign", realign=1.5)
    assert load("adabn") == replace(load("daft"), name="adabn", preserve_function=False, bn_mode=load("adabn").bn_mode)
    assert {group.init for group in load("scratch").groups.values()} == {"random"}
    for algo, how in {"PPO": ("each_rollout", "eval"), "CrossQ": ("none", "train")}.items():
        scratch = load("scratch", algo)
        assert (scratch.conversion, scratch.bn_mode, scratch.preserve_function) == (*how, False)


@given(
    scale=st.floats(0, 10),
    decay=st.sampled_from(["constant", "linear", "cosine"]),
    frozen=st.floats(0, 0.5),
    rise=st.floats(0.51, 1),
    progress=st.floats(0, 1.2),
)
def test_rate_stays_between_zero_and_scale(
    scale: float, decay: Literal["constant", "linear", "cosine"], frozen: float, rise: float, progress: float
) -> None:
    group = Group(scale=scale, decay=decay, frozen_until=frozen, rise_until=rise)
    assert 0.0 <= group.rate(progress) <= scale
    if progress < frozen:
        assert group.rate(progress) == 0.0


def test_schedules() -> None:
    assert [Group(scale=2).rate(t) for t in (0, 0.5, 1)] == [2, 2, 2]
    assert [Group(decay="linear").rate(t) for t in (0, 0.25, 1)] == [1, 0.75, 0]
    assert Group(decay="cosine").rate(0.5) == pytest.approx(0.5)
    assert [Group(rise_until=0.5).rate(t) for t in (0, 0.25, 0.5, 1)] == [0, 0.5, 1, 1]
    assert [Group(frozen_until=0.2, rise_until=0.6).rate(t) for t in (0.1, 0.2, 0.4, 0.9)] == [
        0,
        0,
        pytest.approx(0.5),
        1,
    ]
    assert not Group(decay="linear").frozen(1.0), "a rate of zero at the end of a run is not frozen"
    assert Group(frozen_until=1.0).frozen(1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"speed": 1}, "What exists: name, conversion"),
        ({"conversion": "twice"}, "none, once, each_rollout"),
        ({"preserve_function": "no"}, "true or false"),
        ({"actor_head": 3}, "method.actor_head: expected fields"),
        ({"bn_mode": "frozen"}, "train, eval"),
        ({"l2_sp": -1}, "l2_sp"),
        ({"realign": -1}, "realign: expected a number of at least 0"),
        ({"realign": True}, "realign: expected a number"),
        ({"realign": 1, "actor_encoder": {"init": "random"}, "actor_head": {"init": "random"}}, "source's actor"),
        ({"actor_head": {"scale": -0.1}}, "scale"),
        ({"actor_head": {"scale": float("nan")}}, "scale"),
        ({"actor_head": {"decay": "exponential"}}, "constant, linear, cosine"),
        ({"actor_head": {"speed": 2}}, "method.actor_head.speed does not exist"),
        ({"critic_head": {"frozen_until": 2}}, "critic_head.frozen_until: expected a number of at most 1"),
        ({"critic_head": {"frozen_until": 0.5, "rise_until": 0.3}}, "must come after"),
        ({"critic_encoder": {"init": "zero"}}, "only heads"),
        ({"conversion": "each_rollout", "bn_mode": "train"}, "bn_mode=eval"),
        ({"conversion": "each_rollout", "l2_sp": 0.1}, "l2_sp"),
    ],
)
def test_nonsense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        Method.from_dict({"name": "mine", **values})


def test_groups_have_one_order() -> None:
    assert tuple(Method(name="mine").groups) == GROUPS
