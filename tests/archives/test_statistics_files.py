"""The statistics of an agent are found where people keep them, and those of another agent are left alone."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl.archives import find_vecnormalize, load_agent
from daft_rl.errors import AgentError, DaftWarning
from tests.archives.helpers import VECTOR, Spaces, make

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot be read without running code"),
    pytest.mark.filterwarnings("ignore:You have specified a mini-batch size"),
]

ZOO = "Hopper-v3_1"


def lay(folder: Path, *files: str) -> None:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("archive", "statistics", "others"),
    [
        (f"{ZOO}/best_model.zip", f"{ZOO}/Hopper-v3/vecnormalize.pkl", [f"{ZOO}/Hopper-v3.zip"]),
        (f"{ZOO}/rl_model_100_steps.zip", f"{ZOO}/Hopper-v3/vecnormalize.pkl", [f"{ZOO}/Hopper-v3.zip"]),
        (f"{ZOO}/Hopper-v3.zip", f"{ZOO}/Hopper-v3/vecnormalize.pkl", []),
        (f"{ZOO}/best/best_model.zip", f"{ZOO}/Hopper-v3/vecnormalize.pkl", []),
        ("best/best_model.zip", "vecnormalize.pkl", []),
        ("models/best_model/best_model.zip", "models/vec_normalize.pkl", []),
        (
            "run/checkpoints/mine_9_steps.zip",
            "run/mine_vecnormalize_9_steps.pkl",
            ["run/mine_vecnormalize_8_steps.pkl"],
        ),
        ("PPO_1.zip", "vecnormalize_1.pkl", ["vecnormalize_2.pkl", "PPO_2.zip"]),
        ("PPO_1.zip", "PPO_1_vecnormalize.pkl", ["vecnormalize_1.pkl", "PPO_2_vecnormalize.pkl", "PPO_2.zip"]),
        ("walker2.zip", "vec_normalize2.pkl", ["vec_normalize.pkl", "vec_normalize1.pkl"]),
        ("best_model.zip", "lander_vecnorm.pkl", []),
        ("lander_best.zip", "lander_vecnorm.pkl", ["walker_best.zip", "walker_vecnorm.pkl"]),
        ("best_model.zip", "VecNormalize.pkl", []),
        ("best_model.zip", "vec_normalize_stats.pkl", ["final_model.zip"]),
        ("best_model.zip", "vecnormalize_2000.pkl", []),
        ("agent.zip", "agent_vecnormalize.pkl", ["vecnormalize.pkl", "agent/vecnormalize.pkl"]),
        ("agent.zip", "agent/vecnormalize.pkl", ["vecnormalize.pkl"]),
        ("agent.zip", "vecnormalize.pkl", ["vec_normalize.pkl", "vecnormalize_3.pkl"]),
    ],
)
def test_the_nearest_and_most_specific_file_is_taken(
    archive: str, statistics: str, others: list[str], tmp_path: Path
) -> None:
    lay(tmp_path / "x" / "y", archive, statistics, *others)
    assert find_vecnormalize(tmp_path / "x" / "y" / archive) == tmp_path / "x" / "y" / statistics


@pytest.mark.parametrize(
    ("archive", "others"),
    [
        ("walker.zip", ["hopper.zip", "hopper_vecnormalize.pkl"]),
        ("PPO_2.zip", ["PPO_1.zip", "vecnormalize_1.pkl"]),
        ("A2C_1.zip", ["PPO_1.zip", "vecnormalize_1.pkl"]),
        ("best_model.zip", ["lander_vecnorm.pkl", "walker_vecnorm.pkl"]),
        ("rl_model_2_steps.zip", ["rl_model_vecnormalize_1_steps.pkl", "rl_model_1_steps.zip"]),
        ("walker.zip", ["Hopper-v3.zip", "Hopper-v3/vecnormalize.pkl"]),
        ("walker.zip", ["Hopper-v3/vecnormalize.pkl"]),
        ("best_model.zip", ["Hopper-v3/vecnormalize.pkl", "Walker2d-v3/vecnormalize.pkl"]),
        ("best_model.zip", ["hopper/vecnormalize.pkl", "hopper/best_model.zip"]),
        ("hopper/hopper.zip", ["vecnormalize.pkl", "walker.zip"]),
        ("hopper/best_model.zip", ["walker/vecnormalize.pkl"]),
        ("best/best_model.zip", ["lander_vecnormalize.pkl", "lander.zip"]),
        ("agent.zip", ["vecnormalize.txt", "convecnormal.pkl"]),
        ("run/best.zip", ["vecnormalize.pkl", "run/run.json", "run/source_vecnormalize.pkl"]),
    ],
)
def test_the_file_of_another_agent_is_left_alone(archive: str, others: list[str], tmp_path: Path) -> None:
    lay(tmp_path / "x" / "y", archive, *others)
    assert find_vecnormalize(tmp_path / "x" / "y" / archive) is None


def test_files_of_other_names_are_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of downloads, or of temporary files, are thousands."""
    lay(
        tmp_path,
        "x/agent.zip",
        *(f"x/{number}.txt" for number in range(50)),
        *(f"{number}/file" for number in range(50)),
    )
    looked_at: list[Path] = []
    stat = Path.stat

    def note(path: Path, **kwargs: Any) -> Any:
        looked_at.append(path)
        return stat(path, **kwargs)

    monkeypatch.setattr(Path, "stat", note)
    assert find_vecnormalize(tmp_path / "x" / "agent.zip") is None
    assert {path.suffix for path in looked_at} <= {".pkl", ".json"}
    assert len(looked_at) < 10


def test_nothing_outside_of_a_snapshot_of_the_hub_is_looked_at(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--someone--agents" / "snapshots" / ("0" * 40)
    lay(snapshot.parent, "vecnormalize.pkl", f"{snapshot.name}/best_model.zip", f"{snapshot.name}/best/best_model.zip")
    assert find_vecnormalize(snapshot / "best_model.zip") is None
    lay(snapshot, "vec_normalize.pkl")
    assert find_vecnormalize(snapshot / "best" / "best_model.zip") == snapshot / "vec_normalize.pkl"


def test_a_path_is_taken_and_none_is_none(tmp_path: Path) -> None:
    lay(tmp_path, "agent.zip", "vecnormalize.pkl", "else/where.pkl")
    archive = tmp_path / "agent.zip"
    assert find_vecnormalize(archive, "none") is None
    assert find_vecnormalize(archive, str(tmp_path / "else" / "where.pkl")) == tmp_path / "else" / "where.pkl"
    with pytest.raises(AgentError, match=r"nowhere.pkl.*no such file"):
        find_vecnormalize(archive, "nowhere.pkl")


def _normalized(space: spaces.Box = VECTOR) -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda: Spaces(space)]))


def _trained(path: Path, env: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PPO("MlpPolicy", env, n_steps=8, batch_size=4, device="cpu", policy_kwargs={"net_arch": [4]}).learn(8).save(path)
    return path


def _warned(path: Path, **arguments: Any) -> tuple[bool, list[str]]:
    """Whether statistics were put on, and what was said about them."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loaded = load_agent(path, env=Spaces(), device="cpu", **arguments)
    said = [
        str(one.message) for one in told if isinstance(one.message, DaftWarning) and "VecNormalize" in str(one.message)
    ]
    return loaded.get_vec_normalize_env() is not None, said


def test_an_agent_that_learnt_inside_of_a_vecnormalize_asks_for_its_statistics(tmp_path: Path) -> None:
    env = _normalized()
    path = _trained(tmp_path / "x" / "agent.zip", env)
    found, said = _warned(path)
    assert not found
    assert len(said) == 1
    assert "learnt inside of a VecNormalize" in said[0]
    assert "vecnormalize=PATH" in said[0]
    env.save(str(tmp_path / "kept.pkl"))
    assert _warned(path, vecnormalize=tmp_path / "kept.pkl") == (True, [])
    assert _warned(path, vecnormalize="none") == (False, [])


def test_an_agent_that_learnt_without_one_is_loaded_without_a_word(tmp_path: Path) -> None:
    path = _trained(tmp_path / "x" / "best_model.zip", Spaces())
    lay(tmp_path / "x", "b_vecnorm.pkl")  # nobody looks into it
    assert _warned(path) == (False, [])


def test_an_off_policy_agent_does_not_ask_for_statistics(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    make(SAC).learn(6).save(tmp_path / "x" / "best_model.zip")
    assert _warned(tmp_path / "x" / "best_model.zip") == (False, [])


def test_statistics_of_other_shapes_are_named_but_not_taken(tmp_path: Path) -> None:
    path = _trained(tmp_path / "x" / "best_model.zip", _normalized())
    _normalized(spaces.Box(-1, 1, (4,))).save(str(tmp_path / "x" / "lander_vecnorm.pkl"))
    found, said = _warned(path)
    assert not found
    assert "lander_vecnorm.pkl (has other shapes)" in said[0]


def test_files_of_which_none_is_certain_are_named(tmp_path: Path) -> None:
    path = _trained(tmp_path / "x" / "best_model.zip", _normalized())
    for name in ("a_vecnorm.pkl", "b_vecnorm.pkl"):
        _normalized().save(str(tmp_path / "x" / name))
    found, said = _warned(path)
    assert not found
    assert "a_vecnorm.pkl (may be another agent's)" in said[0]
    assert "b_vecnorm.pkl" in said[0]


def test_what_cannot_be_read_is_named_unless_it_surely_is_the_agents(tmp_path: Path) -> None:
    path = _trained(tmp_path / "x" / "best_model.zip", _normalized())
    lay(tmp_path / "x", "lander_vecnorm.pkl")
    assert "lander_vecnorm.pkl (cannot be read)" in _warned(path)[1][0]
    lay(tmp_path / "x", "vecnormalize.pkl")
    with pytest.raises(AgentError, match="cannot be used"):
        load_agent(path, env=Spaces(), device="cpu")


def test_an_archive_of_an_unknown_age_does_not_ask(tmp_path: Path) -> None:
    path = _trained(tmp_path / "x" / "agent.zip", _normalized())
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(content["data"])
    del data["_last_original_obs"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in (content | {"data": json.dumps(data).encode()}).items():
            archive.writestr(name, raw)
    assert _warned(path) == (False, [])
