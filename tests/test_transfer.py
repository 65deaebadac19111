"""A whole transfer on the real simulator, with tiny budgets."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sb3_contrib import CrossQ
from stable_baselines3 import PPO, SAC
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from daft_rl.archives import find_agent
from daft_rl.batchnorm import batchnorm_layers
from daft_rl.cli import compose_settings
from daft_rl.envs import make_vec
from daft_rl.errors import DaftError
from daft_rl.method import methods
from daft_rl.pretrain import run as pretrain
from daft_rl.rollout.evaluation import evaluate_all
from daft_rl.transfer import transfer
from tests.conftest import parse

pytestmark = pytest.mark.usefixtures("short_episodes")
TINY = [
    "num_envs=4",
    "calibration.steps=400",
    "calibration.held_out=100",
    "evaluation.episodes=1",
    "evaluation.episodes_during=1",
    "evaluation.every=1000",
    "algo.settings.n_steps=128",
    "algo.settings.batch_size=128",
    "algo.settings.n_epochs=2",
    "progress_bar=false",
]
ALGORITHMS: dict[str, type[Any]] = {"ppo": PPO, "sac": SAC, "crossq": CrossQ}
KEYS = {"task", "source", "method", "algo", "seed", "timesteps", "wall_seconds", "phases", "zero_shot", "final"}


def scalars(folder: Path) -> dict[str, list[Any]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


def test_a_target_may_be_a_range_of_shifts(tmp_path: Path) -> None:
    shift = {"gravity": {"low": 0.5, "high": 1.5}, "missing_sensors": ["bthigh.velocity"]}
    result = transfer("HalfCheetah", "ft", shift=shift, total_timesteps=512, output_dir=tmp_path, settings=parse(TINY))
    assert json.loads((tmp_path / "results.json").read_text())["shift"] == shift
    assert set(result.final) == {"target", "source"}


@pytest.mark.parametrize("task", ["Ant-shifted", "HalfCheetah-shifted"])
def test_run_folder(task: str, tmp_path: Path) -> None:
    result = transfer(task, "daft", total_timesteps=1024, seed=3, output_dir=tmp_path, settings=parse(TINY))
    data = json.loads((tmp_path / "results.json").read_text())
    assert set(data) >= KEYS
    assert (data["task"], data["method"], data["algo"], data["seed"]) == (task, "daft", "ppo", 3)
    assert data["timesteps"] == 1024
    for when in ("zero_shot", "final"):
        for where in ("target", "source"):
            returns = data[when][where]["returns"]
            assert data[when][where]["mean"] == pytest.approx(np.mean(returns))
            assert data[when][where]["std"] == pytest.approx(np.std(returns))
    assert data["shift"]
    assert result.final["target"].returns == data["final"]["target"]["returns"]
    for name in ("config.yaml", "monitor.csv", "best.zip", "final.zip"):
        assert (tmp_path / name).stat().st_size > 0
    assert len((tmp_path / "monitor.csv").read_text().splitlines()) >= 2

    seen = scalars(tmp_path)
    for tag in (
        "rollout/ep_rew_mean",
        "eval/target_return",
        "eval/source_return",
        "learning_rate/actor_encoder",
        "learning_rate/critic_head",
        "from_source/batchnorm_mean_drift",
        "from_source/batchnorm_std_drift",
        "from_source/distortion_actor_cosine",
        "from_source/distortion_critic_l2",
        "train/first_minibatch_kl",
    ):
        assert seen[tag], tag
        assert all(np.isfinite(event.value) for event in seen[tag])
    assert seen["from_source/distortion_actor_cosine"][0].value == pytest.approx(1.0, abs=1e-5)
    for name in ("final", "best"):
        PPO.load(tmp_path / f"{name}.zip").predict(np.zeros((1, 105 if task.startswith("Ant") else 17)))


def test_final_archive_is_the_final_policy(tmp_path: Path) -> None:
    result = transfer("HalfCheetah-shifted", "ft", total_timesteps=512, output_dir=tmp_path, settings=parse(TINY))
    venvs = {"target": make_vec("HalfCheetah-shifted", num_envs=1), "source": make_vec("HalfCheetah", num_envs=1)}
    again = evaluate_all(PPO.load(tmp_path / "final.zip"), venvs, episodes=1, seed=10_000)
    assert again == result.final


@pytest.mark.parametrize(("method", "episodes", "plays"), [("daft", 2, 1), ("daft", 1, 2), ("adabn", 2, 2)])
def test_what_was_played_before_is_not_played_again(
    method: str, episodes: int, plays: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The curve begins with the first zero-shot episodes, unless the policy is another one by then."""
    played = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        played.append(1)
        return evaluate_all(*args, **kwargs)

    monkeypatch.setattr("daft_rl.run.monitoring.evaluate_all", counted)
    overrides = [*TINY, f"evaluation.episodes={episodes}", "evaluation.episodes_during=2", "evaluation.every=512"]
    settings = parse([*overrides, "evaluate_in_background=false"])  # in this process, which counts
    result = transfer("HalfCheetah-shifted", method, total_timesteps=512, output_dir=tmp_path, settings=settings)
    assert len(played) == plays
    assert [point["timesteps"] for point in result.curve] == [0, 512]
    if plays == 1:
        assert result.curve[0]["target"] == pytest.approx(np.mean(result.zero_shot["target"].returns[:2]))
    assert (tmp_path / "best.zip").exists()


def test_elsewhere_is_played_before_and_after(tmp_path: Path) -> None:
    overrides = [*TINY, "evaluation.elsewhere=[none,gravity-2.0]"]
    result = transfer(
        "HalfCheetah-shifted", "daft", total_timesteps=512, output_dir=tmp_path, settings=parse(overrides)
    )
    for returns in (result.zero_shot, result.final):
        assert list(returns) == ["target", "source", "none", "gravity-2.0"]
        assert returns["none"] == returns["source"]
        assert returns["gravity-2.0"].returns != returns["source"].returns
    with pytest.raises(DaftError, match="gravity-3"):
        transfer(
            "HalfCheetah-shifted", output_dir=tmp_path, settings=parse([*TINY, "evaluation.elsewhere=[gravity-3]"])
        )


@pytest.mark.parametrize("method", methods())
def test_every_method_runs(method: str, tmp_path: Path) -> None:
    settings = parse([*TINY, "algo.settings.n_steps=64", "algo.settings.batch_size=64"])
    result = transfer("HalfCheetah-shifted", method, total_timesteps=512, output_dir=tmp_path, settings=settings)
    assert np.isfinite(result.final["target"].mean)
    assert result.timesteps == (0 if method == "zero_shot" else 512)
    source, final = (PPO.load(path).policy for path in (find_agent("HalfCheetah", "ppo"), tmp_path / "final.zip"))
    weights = dict(source.named_parameters())
    same = {name for name, weight in final.named_parameters() if weight.equal(weights[name])}
    if method == "zero_shot":
        assert same == set(weights) - {"log_std"}  # it begins to explore as if it were to learn
        assert result.final["target"] == result.zero_shot["target"]
    elif method == "lp":
        heads = {"log_std", "action_net.weight", "action_net.bias", "value_net.weight", "value_net.bias"}
        assert same == set(weights) - heads
    elif yaml.safe_load((tmp_path / "config.yaml").read_text())["method"]["bn_mode"] == "train":
        # what comes before batch statistics may be shifted at will: these gradients are rounding errors, if not zero
        assert all(name.endswith(("net.1.bias", "net.2.bias", "net.5.bias")) for name in same)
    else:
        assert not same


def test_conversion_alone_keeps_the_policy_and_refreshing_does_not(tmp_path: Path) -> None:
    frozen = {key: {"scale": 0} for key in ("actor_encoder", "actor_head", "critic_encoder", "critic_head")}
    overrides = [*TINY, "calibration.steps=2000"]
    moves = {}
    for preserve in (True, False):
        method = {"name": "mine", "conversion": "once", "preserve_function": preserve, **frozen}
        folder = tmp_path / str(preserve)
        transfer("HalfCheetah-shifted", method, output_dir=folder, settings=parse(overrides))
        tuned = PPO.load(folder / "final.zip")
        source = PPO.load(find_agent("HalfCheetah", "ppo"))
        observations = torch.randn(100, 17)
        tuned.policy.set_training_mode(False)
        source.policy.set_training_mode(False)
        moves[preserve] = float(
            (tuned.policy.get_distribution(observations).mode() - source.policy.get_distribution(observations).mode())
            .abs()
            .mean()
        )
        layers = zip(batchnorm_layers(tuned.policy).values(), batchnorm_layers(source.policy).values(), strict=True)
        assert all(not torch.equal(a.mean, b.mean) for a, b in layers)
    assert moves[True] < 1e-3 * moves[False]


def test_same_seed_same_result(tmp_path: Path) -> None:
    results = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        transfer(
            "HalfCheetah-shifted",
            "daft",
            total_timesteps=512,
            seed=seed,
            output_dir=tmp_path / name,
            settings=parse(TINY),
        )
        data = json.loads((tmp_path / name / "results.json").read_text())
        del data["wall_seconds"], data["phases"], data["seconds_beside"], data["seed"]
        results.append(data)
    assert results[0] == results[1]
    assert results[0] != results[2]


PRETRAIN = {
    ("HalfCheetah", "sac"): ["recipe.extractor.hidden=[16]", "+recipe.settings.buffer_size=2000"],
    ("HalfCheetah", "crossq"): ["recipe.policy.net_arch=[16]", "+recipe.settings.buffer_size=2000"],
    ("Door", "crossq"): ["recipe.policy.net_arch=[16]", "+recipe.settings.buffer_size=2000"],
    ("Wipe", "crossq"): ["recipe.policy.net_arch=[16]", "+recipe.settings.buffer_size=2000"],
    ("SafetyPointGoal", "ppo"): ["recipe.extractor.hidden=[16]", "recipe.settings.n_steps=150", "env.cost_limit=25"],
}


SLOW = {(task, "crossq") for task in ("Door", "HalfCheetah", "Wipe")}  # SAC takes the same way


@pytest.mark.parametrize(
    ("task", "algo"), [pytest.param(*case, marks=pytest.mark.slow) if case in SLOW else case for case in PRETRAIN]
)
def test_every_family_pretrains_and_transfers(task: str, algo: str, tmp_path: Path) -> None:
    tiny = ["evaluation.episodes=2", "evaluation.episodes_during=1", "calibration.held_out=100", "progress_bar=false"]
    if task in ("Door", "Wipe"):
        tiny += ["vec=dummy"]  # robosuite takes seconds to import in each worker
    off_policy = ["learning_starts=200"] if algo != "ppo" else ["batch_size=300"]
    overrides = [
        f"env={task}",
        f"algo={algo}",
        "total_timesteps=600",
        "num_envs=4",
        "calibration.steps=200",
        *PRETRAIN[task, algo],
        *(f"recipe.settings.{line}" for line in off_policy),
        *(line for line in tiny if "held_out" not in line),
        f"output_dir={tmp_path / 'source'}",
    ]
    card = pretrain(compose_settings("pretrain", overrides), overrides)
    assert card["timesteps"] == 600
    assert json.loads((tmp_path / "source" / "card.json").read_text())["returns"] == card["returns"]
    assert f"    {card['command']}\n" in (tmp_path / "source" / "README.md").read_text()
    assert "nothing shifted" in (tmp_path / "source" / "README.md").read_text()
    assert f"env={task}-shifted agent=agent.zip" in (tmp_path / "source" / "README.md").read_text()
    assert shlex.split(card["command"])[-len(overrides) :] == overrides
    settings = ["learning_starts=200", "buffer_size=2000"] if algo != "ppo" else ["n_steps=150", "batch_size=300"]
    result = transfer(
        f"{task}-shifted",
        "daft",
        source=tmp_path / "source" / "agent.zip",
        algo=algo,
        total_timesteps=600,
        output_dir=tmp_path / "target",
        settings=parse(
            [
                *tiny,
                "num_envs=4",
                "calibration.steps=400",
                *(f"algo.settings.{line}" for line in settings),
                *(["env.cost_limit=10"] if "Safety" in task else []),
            ]
        ),
    )
    assert np.isfinite(result.final["target"].mean)
    archive = tmp_path / "target" / "final.zip"
    ALGORITHMS[algo].load(archive)
    if "Safety" in task:
        assert result.final["target"].costs is not None
        assert json.loads((tmp_path / "target" / "results.json").read_text())["final"]["target"]["mean_cost"] >= 0
        assert json.loads(archive.with_name("constraint.json").read_text())["limit"] == 10
        assert "episode_cost" in (tmp_path / "target" / "monitor.csv").read_text()
        logged = {"rollout/ep_cost_mean", "rollout/cost_multiplier", "eval/target_cost"}
        assert logged <= scalars(tmp_path / "target").keys()


@pytest.mark.parametrize("actor_scale", [1.0, 0.1])
def test_the_scale_of_the_actor_reaches_its_learning_rates(actor_scale: float, tmp_path: Path) -> None:
    overrides = [*TINY, f"algo.actor_scale={actor_scale}", "calibration.held_out=32", "num_envs=4"]
    transfer("HalfCheetah-shifted", "ft_eval", total_timesteps=1024, output_dir=tmp_path, settings=parse(overrides))
    seen = {group: scalars(tmp_path)[f"learning_rate/{group}"][0].value for group in ("actor_head", "critic_head")}
    assert seen["actor_head"] == pytest.approx(actor_scale * seen["critic_head"])


def test_mistakes_are_told_before_anything_is_written(tmp_path: Path) -> None:
    for arguments, message in [
        ({"env": "Ant-tilted"}, "HalfCheetah-shifted"),
        ({"env": "Ant-shifted", "method": "nope"}, "daft_paper"),
        ({"env": "Ant-shifted", "shift": "gravity-3"}, "gravity-2.0"),
        ({"env": "Ant-shifted", "method": {"name": "mine", "speed": 1}}, "conversion"),
        ({"env": "Ant-shifted", "method": {"conversion": "once"}}, "method.name is missing"),
        ({"env": "Ant-shifted", "algo": "sac"}, "Ant-ppo"),
        ({"env": "Ant-shifted", "source": tmp_path / "nothing.zip"}, "nothing.zip"),
    ]:
        with pytest.raises(DaftError, match=re.escape(message)):
            transfer(**arguments, output_dir=tmp_path / "run")  # type: ignore[arg-type]
        assert not (tmp_path / "run").exists()
