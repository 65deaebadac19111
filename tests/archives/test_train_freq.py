"""How often an archive's algorithm learned is read out of a pickle that is not executed."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import TD3
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from daft_rl.archives import load_agent
from daft_rl.archives.train_freq import is_frequency, read_train_freq
from tests.archives.helpers import Spaces, edit, make, save


def entry(pickled: bytes) -> dict[str, Any]:
    text = base64.b64encode(pickled).decode()
    return {":type:": "<class 'stable_baselines3.common.type_aliases.TrainFreq'>", ":serialized:": text}


@given(st.integers(1, 2**31 - 1).filter(lambda number: number <= 10**9), st.sampled_from(["step", "episode"]))
@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_every_frequency_is_read(pickler: Any, number: int, unit: str) -> None:
    value = TrainFreq(number, TrainFrequencyUnit(unit))
    assert read_train_freq(entry(pickler.dumps(value))) == [number, unit]


@given(st.binary(max_size=200))
def test_other_bytes_are_left_alone(raw: bytes) -> None:
    read = read_train_freq(entry(raw))
    assert read == entry(raw) or is_frequency(read)


@pytest.mark.parametrize("value", [(256, "step", 1), (256, "days"), (-1, "step"), (2**40, "step"), "step"])
def test_other_pickles_are_left_alone(value: Any) -> None:
    assert read_train_freq(entry(pickle.dumps(value))) == entry(pickle.dumps(value))


@pytest.mark.parametrize("value", [4, None, [4, "step"], {":type:": "TrainFreq"}, {":serialized:": "gASVAA=="}])
def test_what_is_no_pickle_of_a_frequency_is_left_alone(value: Any) -> None:
    assert read_train_freq(value) == value


@pytest.mark.parametrize(("episodes", "expected"), [(None, 1), (1, 1), (4, 4), (-1, 1), ("four", 1)])
def test_before_sb3_1_episodes_were_counted_elsewhere(episodes: Any, expected: int) -> None:
    assert read_train_freq(-1, episodes) == [expected, "episode"]


def test_an_agent_that_counted_episodes_learns_on(tmp_path: Path) -> None:
    def age(data: dict[str, Any]) -> None:
        data["train_freq"] = -1

    model = load_agent(edit(save(make(TD3), tmp_path), age), env=Spaces())
    assert isinstance(model, TD3)
    model.learn(6)
    assert model.train_freq == TrainFreq(1, TrainFrequencyUnit.EPISODE)
