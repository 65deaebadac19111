"""How a race ends: with the last policy, or with the best one on the way where the last is clearly behind it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daft_rl.archives import read_archive, read_vecnormalize
from daft_rl.envs.domain import Domain
from daft_rl.errors import AgentError, DaftWarning
from daft_rl.outputs import tell
from daft_rl.race import Race
from daft_rl.run.run import Run
from daft_rl.run.snapshot import PolicyCopy
from daft_rl.run.verdict import Played, judge
from daft_rl.settings import TransferSettings

__all__ = ["end_with_the_better", "with_evaluations"]

EVALUATIONS = 4
"""On the way at least, if a race may end with the best policy there."""

SEED_OFFSET = 500_000
"""From the seed of the evaluation: the episodes that decide are others than those before and after learning."""
SEEDS = 2**32
"""As many seeds as there are; generators of NumPy refuse larger ones."""


def with_evaluations(settings: TransferSettings) -> TransferSettings:
    """The settings of a race, with evaluations at most a quarter of the run apart if it may end with a policy there."""
    assert settings.method.race is not None
    quarter = max(1, settings.total_timesteps // EVALUATIONS)
    if not settings.method.race.best_on_the_way or settings.evaluation.every <= quarter:
        return settings
    return replace(settings, evaluation=replace(settings.evaluation, every=quarter))


def end_with_the_better(current: Run, rule: Race, domains: Mapping[str, Domain]) -> None:
    """Let the last policy of a run and the best one on the way play, and make the model act as the better one.

    The last one stays unless it is behind by more than the margin of the race. Late in a run learning may spoil a
    policy, and no step is left to mend it: values of DQN and SAC jump (``benchmarks/README.md``).

    :param current: a run that has learnt
    :param rule: of its race
    :param domains: where the agent can play
    """
    assert current.race is not None
    with current.profile("evaluation"):
        current.monitoring.finish()
        try:
            best = _best(current)
        except (AgentError, OSError) as error:  # what was learnt is not lost for it
            _keep_last(current, str(error))
            return
        if best is None:
            return
        tell("Playing the last policy and the best one on the way.", current.settings.progress_bar)
        roles = ["target", "source"] if rule.keep else ["target"]
        where = {role: domains[role] for role in roles}
        seed = (current.settings.evaluation.seed + SEED_OFFSET) % SEEDS
        played = {"last": current.evaluator.play(where, rule.episodes, seed)}
        with best.in_place():
            played["best"] = current.evaluator.play(where, rule.episodes, seed)
    taken, why = judge(played, rule, current.settings.env.cost_limit, "policy")
    if taken == "best":
        best.put_in_place()
    _note(current, taken, why, played)


def _keep_last(current: Run, problem: str) -> None:
    """Go on with the last policy where the best one on the way cannot be read."""
    why = f"{current.monitoring.best_path.name} cannot be read"
    warnings.warn(DaftWarning(f"{why}, so the run ends with its last policy: {problem}"), stacklevel=3)
    _note(current, "last", why, {})


def _note(current: Run, taken: str, why: str, played: Mapping[str, Played]) -> None:
    assert current.race is not None
    ending: dict[str, Any] = {"taken": taken, "why": why, "best_step": current.monitoring.best_step}
    ending["returns"] = {
        name: {role: returns.as_dict() for role, returns in by_role.items()} for name, by_role in played.items()
    }
    current.race = replace(current.race, ending=ending)


def _best(current: Run) -> PolicyCopy | None:
    """The policy of ``best.zip``; ``None`` if it computes as the last one does.

    Its tensors are read, and no agent is made of the archive: classes of the user's own may be in it.

    :raises AgentError: the archive is missing, damaged, or of another policy
    """
    best = PolicyCopy(current.model)
    last = best.state_dict()
    saved = {"policy": read_archive(current.monitoring.best_path).state_dicts["policy"], "statistics": {}}
    for name, now in last["statistics"].items():
        saved["statistics"][name] = now | _saved_statistics(current.monitoring.best_path, name)
    same = _equal(saved["policy"], last["policy"]) and _equal(
        saved["statistics"].get("obs_rms", {}), last["statistics"].get("obs_rms", {})
    )
    try:
        best.load_state_dict(saved)
    except RuntimeError as error:
        raise AgentError("it holds a policy with other layers") from error
    return None if same else best


def _saved_statistics(archive: Path, name: str) -> dict[str, tuple[Any, Any, float]]:
    """Moments by key of the observation, as in :meth:`PolicyCopy.state_dict`."""
    read = read_vecnormalize(archive.with_name(f"{archive.stem}_vecnormalize.pkl"))
    moments = read.ret if name == "ret_rms" else read.obs
    by_key = moments if isinstance(moments, dict) else {"": moments}
    return {key: (one.mean, one.var, one.count) for key, one in by_key.items() if one is not None}


def _equal(one: Any, other: Any) -> bool:
    """Whether all numbers in nested dictionaries and tuples are equal."""
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)
    if isinstance(one, tuple):
        return all(_equal(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, torch.Tensor):
        return torch.equal(one.to(other.device), other)
    return bool(np.array_equal(one, other))
