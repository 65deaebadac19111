"""A race of methods is data: what it says is checked, wherever it is written."""

from __future__ import annotations

from typing import Any

import pytest

import daft_rl
from daft_rl.cli import compose_settings
from daft_rl.errors import ConfigError, DaftError, MethodError
from daft_rl.method import Method, find_method, methods
from daft_rl.race import Race
from daft_rl.run.fingerprints import fingerprint_method
from daft_rl.settings import TransferSettings
from daft_rl.transfer import DEFAULT_METHOD
from tests.conftest import build


def race(**settings: Any) -> dict[str, Any]:
    return {"name": "mine", "race": {"arms": ["ft_eval", "ft"], **settings}}


def test_the_shipped_race_is_of_shipped_methods() -> None:
    auto = find_method("auto")
    assert auto.race is not None
    assert {arm.name for arm in auto.arms} < {*methods()} - {"auto"}
    assert auto.learns
    assert find_method("ft").arms == (find_method("ft"),)


def test_an_arm_is_a_name_or_the_fields_of_a_method_or_a_method() -> None:
    slow = {"name": "slow", "actor_head": {"scale": 0.1}}
    made = Method(name="mine", race=Race(arms=("ft", slow, find_method("lp"))))
    assert [arm.name for arm in made.arms] == ["ft", "slow", "lp"]
    assert made.arms[1].actor_head.scale == 0.1
    assert [arm.name for arm in Method.from_dict(made.as_dict()).arms] == ["ft", "slow", "lp"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arms": []}, r"race\.arms is empty"),
        ({"arms": ["ft", "ft"]}, "'ft' is there twice"),
        ({"arms": ["zero_shot"]}, "'zero_shot' learns nothing"),
        ({"arms": ["auto"]}, "'auto' is a race itself"),
        ({"arms": ["ftt"]}, "Did you mean 'ft'"),
        ({"arms": [{"name": "x", "l2sp": 1}]}, "l2sp does not exist"),
        ({"rung": 0}, r"race\.rung: expected a number above 0"),
        ({"episodes": 1}, r"race\.episodes: expected a number of at least 2"),
        ({"keep": 2}, r"race\.keep: expected a number"),
        ({"wins": 2}, r"race\.wins does not exist"),
    ],
)
def test_what_makes_no_race_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        find_method(race(**settings))


def test_fields_of_a_method_belong_into_the_arms() -> None:
    with pytest.raises(MethodError, match=r"l2_sp belongs into its arms\. .*choose one method"):
        find_method(race() | {"l2_sp": 0.1})


def test_an_algorithm_settles_the_arms() -> None:
    settled = find_method({"name": "mine", "race": {"arms": ["daft", "ft"]}}).resolve("train", "none", "constant")
    assert [arm.bn_mode for arm in settled.arms] == ["train", "train"]
    assert {arm.actor_head.decay for arm in settled.arms} == {"constant"}
    assert settled.resolve("eval", "none", "cosine") == settled


def test_results_from_before_there_were_races_have_the_same_fingerprints() -> None:
    assert find_method("daft").as_dict()["race"] is None
    assert fingerprint_method(find_method("auto")) != fingerprint_method(find_method(race()))


def test_a_race_is_told_by_what_its_arms_do_and_not_by_their_names() -> None:
    written = [find_method(name).as_dict() for name in ("ft_eval", "ft")]
    other = [written[0], written[1] | {"l2_sp": 0.1}]
    by_name, by_fields, by_others = (
        fingerprint_method(find_method(race(arms=arms))) for arms in (["ft_eval", "ft"], written, other)
    )
    assert by_name == by_fields != by_others


def test_a_transfer_chooses_its_method_unless_it_is_told() -> None:
    composed = compose_settings("transfer", ["env=Ant-shifted", "output_dir=out"]).method
    assert (composed, DEFAULT_METHOD) == (find_method("auto"), "auto")


def test_the_command_line_sets_every_field() -> None:
    overrides = ["method=auto", "method.race.arms=[ft,lp]", "method.race.keep=0.3", "method.race.rung=5000"]
    settings = compose_settings("transfer", [*overrides, "output_dir=out"])
    assert [arm.name for arm in settings.method.arms] == ["ft", "lp"]
    assert (settings.method.race.keep, settings.method.race.rung) == (0.3, 5000)
    assert TransferSettings.from_dict(settings.as_dict()) == settings


def test_a_field_of_a_race_beside_a_single_method_is_told_why_it_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"^method\.race\.keep does not exist\. method\.race is empty, or null\.$"):
        compose_settings("transfer", ["method=daft", "method.race.keep=0.3", "output_dir=out"])


def test_a_race_that_leaves_nothing_to_its_winner_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rung=0\.6: 2 arms that learn so far leave their winner nothing"):
        compose_settings("transfer", ["method=auto", "method.race.arms=[ft,lp]", "method.race.rung=0.6",
                                      "total_timesteps=100000", "output_dir=out"])  # fmt: skip


def test_who_takes_one_method_refuses_a_race() -> None:
    with pytest.raises(MethodError, match="'auto' is a race of methods"):
        daft_rl.adapt(build("PPO"), "auto")
    with pytest.raises(DaftError, match="'auto' is a race of methods"):
        compose_settings("pretrain", ["env=Ant", "method=auto", "output_dir=out"])
