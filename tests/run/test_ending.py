"""A race ends with the best policy on the way if the last one is clearly behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import daft_rl
from daft_rl.errors import DaftWarning
from daft_rl.method import GROUPS
from daft_rl.rollout.evaluation import evaluate
from daft_rl.rollout.returns import Returns
from daft_rl.run import ending
from daft_rl.run.ending import SEED_OFFSET
from daft_rl.run.monitoring import Monitoring
from tests.conftest import DISCRETE, PointMass, build
from tests.run.test_race import SETTINGS
from tests.test_resume import OFF_POLICY_SETTINGS, StoppedError, Tolled, assert_equal_runs, discrete

AFTER_EVALUATIONS = 490
"""Of 512 steps, the policy plays at 0, 120, 240, 360 and 480."""
HEADS = ("action_net", "actor.mu", "q_net.q_net.2")


class Spoil(BaseCallback):
    """Makes the policy push as hard as it can, after it was evaluated for the last time."""

    def _on_step(self) -> bool:
        policy: Any = self.model.policy
        if self.num_timesteps >= AFTER_EVALUATIONS:
            with torch.no_grad():
                for name, bias in policy.named_parameters():
                    if name.startswith(HEADS) and name.endswith("bias"):
                        bias.fill_(1e4)
                        if name.startswith("q_net"):
                            bias[:-1] = 0.0  # equal values would push nowhere
        return True


def run(
    folder: Path,
    source: BaseAlgorithm,
    env: Callable[[], Any] = PointMass,
    further: dict[str, Any] | None = None,
    **rule: Any,
) -> daft_rl.TransferResult:
    race = {"arms": ["ft_eval"], "episodes": 8, **rule}
    kind = OFF_POLICY_SETTINGS if isinstance(source, OffPolicyAlgorithm) else {}
    return daft_rl.transfer(
        env,
        {"name": "mine", "race": race},
        source,
        source_env=env,
        output_dir=folder,
        settings=SETTINGS | kind | (further or {}),
        callback=Spoil(),
    )


def weights(archive: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_from_zip_file(archive)[1]["policy"]  # type: ignore[assignment]
    return found


@pytest.mark.parametrize("name", ["PPO", "SAC", "TD3", "DQN", "CrossQ"])
def test_a_policy_that_was_spoilt_is_not_handed_over(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = discrete if name in DISCRETE else PointMass
    result = run(tmp_path, build(name), env)
    assert result.race is not None
    how = result.race["ending"]
    assert how["taken"] == "best"
    [best] = [point["target"] for point in result.curve if point["timesteps"] == how["best_step"]]
    assert best == max(point["target"] for point in result.curve)
    assert how["returns"]["best"]["target"]["mean"] > how["returns"]["last"]["target"]["mean"]
    final, kept = weights(tmp_path / "final.zip"), weights(tmp_path / "best.zip")
    assert final.keys() == kept.keys()
    assert all(torch.equal(final[weight], kept[weight]) for weight in final)
    venv = DummyVecEnv([env])
    model = daft_rl.load_agent(tmp_path / "final.zip", env=venv)
    assert evaluate(model, venv, 4, 10_000).returns == pytest.approx(result.final["target"].returns, rel=1e-4)
    result.print()
    assert f"final.zip is the policy of step {how['best_step']}, not the last one: it is ahead" in (
        capsys.readouterr().out
    )


def test_the_last_policy_stays_unless_it_is_clearly_behind(tmp_path: Path) -> None:
    result = run(tmp_path, build("PPO"), margin=1000.0)
    assert result.race is not None
    assert result.race["ending"]["taken"] == "last"
    assert "not clear" in result.race["ending"]["why"]
    returned = result.race["ending"]["returns"]["last"]["target"]["returns"]
    venv = DummyVecEnv([PointMass])
    model = daft_rl.load_agent(tmp_path / "final.zip", env=venv)
    assert evaluate(model, venv, 8, 10_000 + SEED_OFFSET).returns == pytest.approx(returned, rel=1e-4)


def test_there_are_policies_on_the_way_in_short_runs_too(tmp_path: Path) -> None:
    rare = {"evaluation.every": 50_000}
    result = run(tmp_path / "best", build("PPO"), further=rare)
    assert [point["timesteps"] for point in result.curve] == [0, 128, 256, 384, 512]
    result = run(tmp_path / "last", build("PPO"), further=rare, best_on_the_way=False)
    assert [point["timesteps"] for point in result.curve] == [0]


def test_who_wants_the_last_policy_gets_it(tmp_path: Path) -> None:
    result = run(tmp_path, build("PPO"), best_on_the_way=False)
    assert result.race is not None
    assert result.race["ending"] is None
    assert weights(tmp_path / "final.zip")["action_net.bias"][-1] > 9000


def test_statistics_that_follow_the_target_are_those_of_the_policy_that_is_taken(tmp_path: Path) -> None:
    venv = VecNormalize(DummyVecEnv([PointMass]))
    source = build("PPO")
    source.set_env(venv)
    result = daft_rl.transfer(
        PointMass,
        {"name": "mine", "race": {"arms": ["ft_eval"], "episodes": 8}},
        source,
        output_dir=tmp_path,
        settings=SETTINGS | {"agent.normalize": "update"},
        callback=Spoil(),
    )
    assert result.race is not None
    assert result.race["ending"]["taken"] == "best"
    means = []
    for name in ("final", "best"):
        model = daft_rl.load_agent(tmp_path / f"{name}.zip", env=DummyVecEnv([PointMass]))
        normalizer: Any = model.get_vec_normalize_env()
        means.append(normalizer.obs_rms.mean.tolist())
    assert means[0] == means[1]


def test_a_run_that_was_stopped_before_the_end_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole", build("PPO"))

    def stop(*_: Any) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(ending, "judge", stop)
        with pytest.raises(StoppedError):
            run(tmp_path / "cut", build("PPO"))
    daft_rl.transfer(PointMass, source=build("PPO"), source_env=PointMass, resume=tmp_path / "cut", callback=Spoil())
    assert_equal_runs(tmp_path / "whole", tmp_path / "cut")


class OwnPolicy(ActorCriticPolicy):
    """A class that no archive can name."""


def test_a_policy_of_the_users_own_is_among_them(tmp_path: Path) -> None:
    result = run(tmp_path, PPO(OwnPolicy, PointMass(), policy_kwargs={"net_arch": [8]}, device="cpu"))
    assert result.race is not None
    assert result.race["ending"]["taken"] == "best"
    assert result.final["target"].mean > -100


def _missing(archive: Path) -> None:
    archive.unlink()


def _cut(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:3000])


def _of_another(archive: Path) -> None:
    build("TD3").save(archive)


@pytest.mark.parametrize("damage", [_missing, _cut, _of_another])
def test_a_run_does_not_fail_for_its_best_policy(
    damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finish = Monitoring.finish

    def damaged(self: Monitoring) -> None:
        finish(self)
        if self.num_timesteps == 512 and self.best_path.exists():
            damage(self.best_path)

    monkeypatch.setattr(Monitoring, "finish", damaged)
    with pytest.warns(DaftWarning, match=r"best\.zip cannot be read, so the run ends with its last policy"):
        result = run(tmp_path, build("PPO"))
    assert result.race is not None
    how = result.race["ending"]
    assert (how["taken"], how["why"], how["returns"]) == ("last", "best.zip cannot be read", {})
    assert weights(tmp_path / "final.zip")["action_net.bias"][-1] > 9000
    result.print()
    printed = capsys.readouterr().out
    assert "WORSE THAN BEFORE" in printed
    assert "best.zip" not in printed


def test_the_last_seeds_serve_too(tmp_path: Path) -> None:
    settings = {"evaluation.seed": 2**32 - 1000, "vec": "dummy"}
    seen: list[int] = []

    class Seeded(PointMass):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            seen.extend([] if seed is None else [seed])
            return super().reset(seed=seed)

    race = {"arms": ["ft_eval"], "episodes": 2}
    kind = SETTINGS | settings | {"total_timesteps": 64}
    daft_rl.transfer(Seeded, {"name": "mine", "race": race}, build("PPO"), output_dir=tmp_path, settings=kind)
    assert max(seen) < 2**32
    assert SEED_OFFSET - 1000 in seen


def test_statistics_alone_make_another_policy(tmp_path: Path) -> None:
    """Nothing is learnt, and the statistics go on."""
    source = PPO("MlpPolicy", VecNormalize(DummyVecEnv([PointMass])), policy_kwargs={"net_arch": [8]}, device="cpu")
    with torch.no_grad():
        for parameter in source.policy.parameters():
            parameter.add_(0.01)  # a weight of 0 would move
    result = daft_rl.transfer(
        PointMass,
        {"name": "mine", "race": {"arms": [{"name": "still", **{group: {"scale": 1e-30} for group in GROUPS}}]}},
        source,
        output_dir=tmp_path,
        settings=SETTINGS | {"agent.normalize": "update", "algo.settings.ent_coef": 0.0},
    )
    assert result.race is not None
    assert result.race["ending"] is not None


def test_where_costs_are_limited_the_reason_speaks_of_policies(tmp_path: Path) -> None:
    result = run(tmp_path, build("PPO"), Tolled, {"env.cost_limit": 19.5})
    assert result.race is not None
    assert result.race["ending"]["why"] == "the only policy within the limit on costs"
    within = [point for point in result.curve if point["target_cost"] <= 19.5]
    best = max(within, key=lambda point: point["target"])
    assert result.race["ending"]["best_step"] == best["timesteps"]
    assert result.final["target"].mean_cost is not None
    assert result.final["target"].mean_cost <= 19.5


def test_where_no_policy_is_within_the_limit_the_step_is_that_of_the_lowest_cost(tmp_path: Path) -> None:
    result = run(tmp_path, build("PPO"), Tolled, {"env.cost_limit": 0.001})
    assert result.race is not None
    assert "no policy is within the limit" in result.race["ending"]["why"]
    cheapest = min(result.curve, key=lambda point: point["target_cost"])
    assert result.race["ending"]["best_step"] == cheapest["timesteps"]


def test_what_is_worse_and_the_best_on_the_way_is_said_to_be_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(tmp_path, build("PPO"))
    worse = {"target": Returns([-1000.0, -1001.0, -1002.0], [20] * 3)}
    replace(result, final=worse).print()
    printed = capsys.readouterr().out
    assert "WORSE THAN BEFORE" in printed
    assert "It is the best one on the way, best.zip." in printed
