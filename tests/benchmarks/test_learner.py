"""Turns, medians and ratios of the comparison of learners, and one measurement."""

from typing import Any

import pytest

from benchmarks.speed.learner import list_jobs, summarize
from benchmarks.speed.learner_operations import operations
from benchmarks.speed.learner_worker import measure_learner


def made_up_run(variant: str, round_index: int, update_cpu: float, batchnorm: bool = False) -> dict[str, Any]:
    """A hundred steps of SAC, half of whose time is not spent in updates."""
    seconds = {"cpu": 2 * update_cpu, "wall": 4 * update_cpu, "update_cpu": update_cpu, "update_wall": 2 * update_cpu}
    return {
        "round": round_index, "variant": variant, "algorithm": "SAC", "batchnorm": batchnorm,
        "env_steps": 100, "gradient_steps": 100, **seconds,
    }  # fmt: skip


LIMITS: list[dict[str, Any]] = [
    {"round": i, "variant": "limit", "gflops": {"numpy": 100.0, "torch.mm": gflops}}
    for i, gflops in enumerate([50.0, 200.0])
]


def test_ratios_are_taken_within_rounds() -> None:
    runs = [made_up_run("daft_rl", 0, 1.0), made_up_run("sbx", 0, 0.5)]
    runs += [made_up_run("daft_rl", 1, 3.0), made_up_run("sbx", 1, 4.5)]
    row = summarize([*LIMITS, *runs])["algorithms"]["SAC"]["without"]
    assert row["daft_rl"]["steps_per_cpu_second"] == {"median": 33.33, "min": 16.67, "max": 50.0}
    assert row["daft_rl"]["steps_per_second"]["max"] == 25.0
    assert row["daft_rl"]["update_cpu_ms"] == {"median": 20.0, "min": 10.0, "max": 30.0}
    ratio = {"median": 1.0, "min": 0.5, "max": 1.5}
    assert row["relative"] == {"sbx": {"steps": ratio, "update": ratio}}


def test_the_share_of_the_matrix_limit_is_that_of_the_fastest_library_in_the_round() -> None:
    row = summarize([*LIMITS, made_up_run("sb3", 0, 1.0), made_up_run("sb3", 1, 1.0)])["algorithms"]["SAC"]["without"]
    shares = [operations("SAC") * 100 / 1e9 / limit for limit in (200.0, 100.0)]
    found = row["sb3"]["of_matrix_limit"]
    assert [found["min"], found["max"]] == pytest.approx(shares, rel=1e-3)


def test_with_batchnorm_sbx_stands_without_it() -> None:
    runs = [made_up_run("daft_rl", 0, 1.0, batchnorm=True), made_up_run("sbx", 0, 0.5)]
    rows = summarize([*LIMITS, *runs])["algorithms"]["SAC"]
    assert rows["batchnorm"]["relative"]["sbx"]["update"]["median"] == 0.5
    assert rows["without"]["relative"] == {}


def test_variants_take_turns_and_sbx_has_batchnorm_in_crossq_only() -> None:
    jobs = list_jobs(["SAC", "CrossQ"], ["sb3", "daft_rl", "sbx"], 1)
    turns = {(job["algorithm"], job["batchnorm"]): [] for job in jobs[1:]}  # type: ignore[var-annotated]
    for job in jobs[1:]:
        turns[job["algorithm"], job["batchnorm"]].append(job["variant"])
    assert jobs[0] == {"round": 1, "variant": "limit"}
    assert turns == {
        ("SAC", False): ["daft_rl", "sbx", "sb3"],
        ("SAC", True): ["daft_rl", "sb3"],
        ("CrossQ", False): ["daft_rl", "sbx", "sb3"],
        ("CrossQ", True): ["daft_rl", "sbx", "sb3"],
    }


@pytest.mark.parametrize(
    ("variant", "algorithm", "gradient_steps", "env_steps"), [("sb3", "DQN", 7, 7), ("daft_rl", "PPO", 80, 2048)]
)
def test_a_measurement_counts_the_steps_after_the_warm_up(
    variant: str, algorithm: str, gradient_steps: int, env_steps: int
) -> None:
    found = measure_learner(variant, algorithm, batchnorm=True, steps=7)
    assert (found["gradient_steps"], found["env_steps"]) == (gradient_steps, env_steps)
    assert 0 < found["update_cpu"] < found["cpu"]
    assert 0 < found["update_wall"] < found["wall"]
