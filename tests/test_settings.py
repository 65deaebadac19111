"""Settings are typed, and both ways to write them come to the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from daft_rl.cli import compose_settings
from daft_rl.envs import read_shift
from daft_rl.errors import ConfigError, DaftError
from daft_rl.settings import TransferSettings, algorithm_names, merge, nest, read_algorithm, read_task
from daft_rl.transfer import TransferSettings as Reached
from daft_rl.transfer import transfer


def settings_of(monkeypatch: pytest.MonkeyPatch, *arguments: Any, **keywords: Any) -> TransferSettings:
    """What a call of ``transfer`` would run."""
    found: list[TransferSettings] = []
    monkeypatch.setattr("daft_rl.transfer.run", lambda settings, *_, **__: found.append(settings))
    transfer(*arguments, **keywords)
    return found[0]


@pytest.mark.parametrize(
    ("task", "further"),
    [
        ("Ant-shifted", {}),
        ("Door-shifted", {"num_envs": 4}),
        ("SafetyPointGoal-shifted", {"env.cost_limit": 25, "evaluation.elsewhere": ["action-delay-1"]}),
        ("HalfCheetah-shifted", {"algo.settings.n_steps": 64, "method.race.keep": 0.3}),
    ],
)
def test_python_and_the_command_line_run_the_same(
    task: str, further: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = settings_of(monkeypatch, task, output_dir="out", settings=further)
    overrides = [f"{key}={str(value).replace(chr(39), '')}" for key, value in further.items()]
    composed = compose_settings("transfer", [f"env={task}", "output_dir=out", *overrides])
    assert read_shift(task, called.env.shift) == read_shift(task, composed.env.shift)
    one, other = called.as_dict(), composed.as_dict()
    del one["env"]["shift"], other["env"]["shift"]  # written by fields that change something, and by all fields
    assert one == other
    assert Reached is TransferSettings


def test_what_a_run_writes_reads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(monkeypatch, "Ant-shifted", "daft_gradual", seed=3, output_dir="out")
    written = yaml.safe_load(yaml.safe_dump(settings.as_dict()))
    assert TransferSettings.from_dict(written) == settings
    assert isinstance(settings.output_dir, Path)


def test_a_path_may_be_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"agent.path": Path("my") / "agent.zip", "agent.vecnormalize": Path("my") / "statistics.pkl"}
    given["agent.correspondence"] = Path("my") / "names.yaml"
    agent = settings_of(monkeypatch, "Ant-shifted", settings=given).agent
    assert (agent.path, agent.vecnormalize) == ("my/agent.zip", "my/statistics.pkl")
    assert agent.correspondence == "my/names.yaml"


@pytest.mark.parametrize("env", ["mujoco", "gymnasium"])
def test_a_family_of_environments_needs_an_id(env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"env='(mujoco/Hopper|Pendulum)-v\d'") as caught:
        settings_of(monkeypatch, env)
    example = str(caught.value).rpartition("env='")[2].partition("'")[0]
    assert settings_of(monkeypatch, example).env.name == example


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": -1}, "seed: expected a number of at least 0"),
        ({"seed": 2**32}, "seed: expected a number below"),
        ({"evaluation.seed": 1.5}, "evaluation.seed: expected a whole number, got 1.5"),
        ({"torch_threads": 0}, "torch_threads: expected a number of at least 1"),
        ({"agent.trust": "no"}, "agent.trust: expected true or false, got 'no'"),
        ({"render": "off"}, "render: expected true or false"),
        ({"calibration.steps": "1e4"}, "calibration.steps: expected a whole number"),
        ({"calibration.steps": True}, "calibration.steps: expected a whole number"),
        ({"agent.normalize": "thaw"}, "agent.normalize: expected one of frozen, update, fold"),
        ({"evaluate_in_background": "maybe"}, "evaluate_in_background: expected auto, true or false, got 'maybe'"),
        ({"evaluation.elsewhere": "gravity-2.0"}, "evaluation.elsewhere: expected a list"),
        ({"env.cost_limit": 0}, "env.cost_limit: expected a number above 0"),
        (
            {"calibration.step": 3},
            "calibration.step does not exist. Did you mean 'steps'? What exists: steps, held_out",
        ),
        ({"total_timestep": 3}, "total_timestep does not exist"),
        ({"env.name": "Ant"}, "env.name: pass env=... itself"),
        ({"algo.name": "crossq"}, "algo.name: pass algo=... itself"),
        ({"env.shift": "gravity-2.0", "env.shift.friction": 3.0}, "given as a whole and by its parts"),
        ({"agent.head": "action_net.*"}, "agent.head: expected a list"),
        ({"output_dir": ""}, "output_dir is empty"),
        ({"agent.adapt_spaces": True, "agent.correspondence": "names"}, "Leave one of them out"),
        ({"method.actor_head.scale": -1}, "method.actor_head.scale: expected a number of at least 0"),
    ],
)
def test_impossible_values_are_one_message(
    values: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DaftError) as refused:
        settings_of(monkeypatch, "Ant-shifted", settings=values)
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", [name for name in algorithm_names() if name not in ("dqn", "qrdqn")])
def test_updates_per_environment_step_do_not_depend_on_the_number_of_environments(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of DQN and QRDQN are their source's (tests/run/test_rhythm.py)."""
    given = settings_of(monkeypatch, "Ant-shifted", algo=name).algo.hyperparameters
    assert given.get("gradient_steps", -1) == -1


def test_unknown_algorithms_are_named() -> None:
    with pytest.raises(ConfigError, match=r"Unknown algorithm 'ppp'. Did you mean 'ppo'\?"):
        read_algorithm("ppp")


def test_a_task_without_a_file_is_an_id() -> None:
    assert read_task("Pendulum-v1") == {"name": "Pendulum-v1"}
    assert "id" not in read_task("gymnasium")


names = st.text("abc", min_size=1, max_size=2)


@given(st.dictionaries(names, st.dictionaries(names, st.integers(), min_size=1), max_size=3))
def test_dotted_names_are_nested_dictionaries(nested: dict[str, dict[str, int]]) -> None:
    dotted = {f"{outer}.{inner}": value for outer, values in nested.items() for inner, value in values.items()}
    assert nest(dotted) == nested
    assert merge(nested, nested) == nested
