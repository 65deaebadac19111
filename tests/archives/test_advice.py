"""Every message about an archive names what leads on: what it says is done, and the agent loads."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation, RescaleAction
from stable_baselines3 import DDPG, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise

import daft_rl
from daft_rl.agents.policies import ACTIVATIONS
from daft_rl.archives import load_agent
from daft_rl.cli import KEYS
from daft_rl.errors import AgentError, DaftWarning
from daft_rl.hyperparameters import TABLE
from daft_rl.settings import TransferSettings
from tests.archives.helpers import ACTION, SHARED, VECTOR, Spaces, edit, make, save
from tests.archives.test_load import MyActivation, MyExtractor, MyPolicy
from tests.archives.test_objects import SETTINGS

pytestmark = [
    pytest.mark.filterwarnings("ignore:trust=True"),
    pytest.mark.filterwarnings("ignore:.*start at random"),
    pytest.mark.filterwarnings("ignore:You have specified a mini-batch size"),
    pytest.mark.filterwarnings("ignore:.*train_freq=1 for a pickled"),
]
ROOT = Path(__file__).parents[2]
WIDE = spaces.Box(-np.arange(1.0, 1203.0), np.inf, (1202,), np.float64)
BIAS = "vf_features_extractor.net.1.bias"
OU = OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.3 * np.ones(2))


class Case(NamedTuple):
    """A file with a problem."""

    make: Callable[[Path], Path]
    says: str
    """Pattern of the message."""
    answers: list[dict[str, Any]]
    """Arguments that the message names; each of them leads on."""
    given: dict[str, Any] = {}
    """Arguments that meet the problem."""


def of(
    kind: Any = PPO, change: Callable[[dict[str, Any]], Any] | None = None, member: str = "data", **kwargs: Any
) -> Any:
    """An archive, edited."""

    def archive(folder: Path) -> Path:
        path = save(make(kind, **kwargs), folder)
        return path if change is None else edit(path, change, member)

    return archive


def net(**kwargs: Any) -> dict[str, Any]:
    return {"policy_kwargs": {"net_arch": [6], **kwargs}}


REFUSED = {
    "activation": Case(of(**net(activation_fn=MyActivation)), r"activation='ReLU'", [{"activation": "ReLU"}]),
    "extractor": Case(
        of(SAC, **net(features_extractor_class=MyExtractor)),
        r"Pass policy_kwargs=\{'features_extractor_class': \.\.\.\}, or, .*trust=True",
        [{"policy_kwargs": {"features_extractor_class": MyExtractor}}, {"trust": True}],
    ),
    "sizes of an extractor": Case(
        of(SAC, **net(features_extractor_class=MyExtractor, features_extractor_kwargs={"width": 5})),
        r"do not fit the networks.*Pass policy_kwargs=.*or, .*trust=True",
        [{"policy_kwargs": {"features_extractor_class": MyExtractor}}, {"policy_kwargs": None, "trust": True}],
        {"policy_kwargs": {"features_extractor_class": MyExtractor, "features_extractor_kwargs": {}}},
    ),
    "policy": Case(
        of(policy=MyPolicy), r"Pass it as policy=\.\.\., or, .*trust=True", [{"policy": MyPolicy}, {"trust": True}]
    ),
    "no policy_kwargs": Case(
        of(change=lambda data: data.pop("policy_kwargs")),
        r"Pass policy_kwargs=\.\.\. \(\{\} for SB3's defaults\)",
        [{"policy_kwargs": {}}],
    ),
    "shared extractor": Case(
        of(change=lambda state: state.update({BIAS: state[BIAS] + 1}), member="policy.pth", policy_kwargs=SHARED),
        r"Pass policy_kwargs=\{'share_features_extractor': False\}",
        [{"policy_kwargs": {"share_features_extractor": False}}],
    ),
    "abbreviated space": Case(
        of(observation_space=WIDE), r"does not tell its observation space.*Pass env=", [{"env": Spaces(WIDE)}]
    ),
    "longer vectors": Case(
        of(),
        r"Wrap the environment.*or correspondence='positions'",
        [
            {"correspondence": "positions"},
            {"env": gym.wrappers.TransformObservation(Spaces(spaces.Box(-1, 1, (4,))), lambda seen: seen[:3], VECTOR)},
        ],
        {"env": Spaces(spaces.Box(-1, 1, (4,)))},
    ),
    "scaled actions": Case(
        of(),
        r"RescaleAction with the agent's bounds",
        [{"env": RescaleAction(Spaces(action_space=spaces.Box(-1, 1, (2,))), ACTION.low, ACTION.high)}],
        {"env": Spaces(action_space=spaces.Box(-1, 1, (2,)))},
    ),
    "named observations": Case(
        of(),
        r"gymnasium\.wrappers\.FlattenObservation",
        [{"env": FlattenObservation(Spaces(spaces.Dict({"a": VECTOR})))}],
        {"env": Spaces(spaces.Dict({"a": VECTOR}))},
    ),
    "entropy coefficient": Case(
        of(SAC, change=lambda state: state.clear(), member="pytorch_variables.pth"),
        r"Pass ent_coef=",
        [{"ent_coef": 0.1}, {"ent_coef": "auto"}],
    ),
    "too many entries": Case(
        of(change=lambda data: data.update(notes=[0] * 600_000)),
        r"With algo=\.\.\., trust=True",
        [{"algo": "PPO", "trust": True}],
        {"trust": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("problem", REFUSED)
def test_what_an_error_names_leads_on(problem: str, tmp_path: Path) -> None:
    case = REFUSED[problem]
    path = case.make(tmp_path)
    with pytest.raises(AgentError, match=case.says):
        load_agent(path, **case.given)
    for answer in case.answers:
        load_agent(path, **(case.given | answer), device="cpu")


WARNED: dict[str, tuple[Any, Any]] = {
    "clip_range": (of(clip_range=lambda progress: 0.1), 0.3),
    "learning_rate": (of(learning_rate=lambda progress: 0.1, change=lambda data: data.pop("lr_schedule")), 1e-3),
    "action_noise": (of(DDPG, action_noise=VectorizedActionNoise(OU, 1)), NormalActionNoise(np.zeros(2), np.ones(2))),
}


@pytest.mark.parametrize("name", WARNED)
def test_what_a_warning_names_leads_on(name: str, tmp_path: Path) -> None:
    archive, value = WARNED[name]
    path = archive(tmp_path)
    with pytest.warns(DaftWarning, match=rf"{name}=\S+ for .*load_agent\(.*{name}=\.\.\."):
        load_agent(path, env=Spaces())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=f".*{name}=")
        arguments: dict[str, Any] = {name: value}
        load_agent(path, env=Spaces(), **arguments)


def test_the_setting_that_stands_for_noise_gives_noise(tmp_path: Path) -> None:
    venv = make_vec_env(Spaces, 2)
    DDPG("MlpPolicy", venv, action_noise=VectorizedActionNoise(OU, 2), device="cpu").save(tmp_path / "agent.zip")
    with pytest.warns(DaftWarning, match="action_noise") as told:
        load_agent(tmp_path / "agent.zip", env=Spaces())
    named = [name for warning in told for name in getattr(warning.message, "arguments", ())]
    assert [KEYS.get(name, name) for name in named if "noise" in name or "std" in name] == ["algo.exploration_std"]
    settings = SETTINGS | {"algo.exploration_std": 0.25}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = daft_rl.transfer(
            Spaces, "zero_shot", tmp_path / "agent.zip", settings=settings, output_dir=tmp_path / "run"
        )
        model: Any = load_agent(result.folder / "final.zip")
    assert repr(model.action_noise) == repr(NormalActionNoise(np.zeros(2), np.full(2, 0.25)))


def test_normal_noise_of_several_environments_is_read(tmp_path: Path) -> None:
    noise = NormalActionNoise(np.array([0.0, 0.5]), np.array([0.1, 0.2]))
    path = of(DDPG, action_noise=VectorizedActionNoise(noise, 1))(tmp_path)
    model: Any = load_agent(path)
    assert repr(model.action_noise) == repr(noise)


# -- what the source code names ---------------------------------------------------------------------------------


def sources() -> Iterator[ast.AST]:
    for path in [*(ROOT / "daft_rl" / "archives").glob("*.py"), ROOT / "agents" / "algorithms.py"]:
        yield from ast.walk(ast.parse(path.read_text("utf-8")))


def messages() -> set[str]:
    """All texts in calls of errors and warnings, and the constants that they use."""
    names = ("AgentError", "DaftWarning", "wrap_errors")
    calls = [node for node in sources() if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names]
    returned = [node for node in sources() if isinstance(node, ast.Return)]
    texts = (inner.value for node in (*calls, *returned) for inner in ast.walk(node) if isinstance(inner, ast.Constant))
    return {text for text in texts if isinstance(text, str)}


def test_every_import_path_in_a_message_exists() -> None:
    found = {
        path for text in messages() for path in re.findall(r"\b(?:daft_rl|gymnasium|stable_baselines3)(?:\.\w+)+", text)
    }
    assert {"daft_rl.agents.register_algorithm", "daft_rl.load_agent", "gymnasium.wrappers.FlattenObservation"} <= found
    for path in found - {"daft_rl.pretrain"}:  # a program
        module, _, name = path.rpartition(".")
        try:
            import_module(path)
        except ModuleNotFoundError:
            assert hasattr(import_module(module), name), path


def test_every_file_in_a_message_exists() -> None:
    found = {path for text in messages() for path in re.findall(r"\b(?:docs|configs|examples)/[\w/.-]+\w", text)}
    assert found
    for path in found:
        assert (ROOT / path).exists(), path


def test_every_argument_that_helps_can_be_set_on_the_command_line() -> None:
    lists = [node.value for node in sources() if isinstance(node, ast.keyword) and node.arg == "arguments"]
    constants = [inner for node in lists for inner in ast.walk(node) if isinstance(inner, ast.Constant)]
    names = {str(constant.value) for constant in constants if isinstance(constant.value, str)}
    assert {"trust", "policy_kwargs", "correspondence", "env"} <= names
    hyperparameters = {field.name for kind in TABLE.values() for field in fields(kind)}
    for name in names:
        assert name in hyperparameters or _exists(KEYS[name]), name


def _exists(key: str) -> bool:
    """Whether the settings of a transfer have such a key; ``agent=`` and ``env=`` choose a group."""
    kind: Any = TransferSettings
    for part in key.split("."):
        hints = get_type_hints(kind) if is_dataclass(kind) else {}
        if part not in hints:
            return False
        kind = hints[part]
    return True


def test_activations_that_are_named_exist() -> None:
    assert "ReLU" in {cls.__name__ for cls in ACTIVATIONS}
