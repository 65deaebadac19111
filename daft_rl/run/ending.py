"""How a race ends: with the last policy, or with the best one on the way where the last is clearly behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from daft_rl.envs.domain import Domain
from daft_rl.outputs import tell
from daft_rl.race import Race
from daft_rl.run.agents import load_saved
from daft_rl.run.run import Run
from daft_rl.run.snapshot import PolicyCopy
from daft_rl.run.verdict import judge

__all__ = ["end_with_the_better"]

SEED_OFFSET = 500_000
"""From the seed of the evaluation: the episodes that decide are others than those before and after learning."""


def end_with_the_better(current: Run, rule: Race, domains: Mapping[str, Domain]) -> None:
    """Let the last policy of a run and the best one on the way play, and make the model act as the better one.

    The last one stays unless it is behind by more than the margin of the race. What learning may do to a policy late
    in a run, a later policy need not make good: values of DQN and SAC jump (``benchmarks/README.md``).

    :param current: a run that has learnt
    :param rule: of its race
    :param domains: where the agent can play
    """
    assert current.race is not None
    with current.profile("evaluation"):
        current.monitoring.finish()
        best = _best(current)
        if best is None:
            return
        tell("Playing the last policy and the best one on the way.", current.settings.progress_bar)
        roles = ["target", "source"] if rule.keep else ["target"]
        where = {role: domains[role] for role in roles}
        seed = current.settings.evaluation.seed + SEED_OFFSET
        played = {"last": current.evaluator.play(where, rule.episodes, seed)}
        with best.in_place():
            played["best"] = current.evaluator.play(where, rule.episodes, seed)
    taken, why = judge(played, rule, current.settings.env.cost_limit)
    if taken == "best":
        best.put_in_place()
    ending: dict[str, Any] = {"taken": taken, "why": why, "best_step": current.axis(current.monitoring.best_step)}
    ending["returns"] = {
        name: {role: returns.as_dict() for role, returns in by_role.items()} for name, by_role in played.items()
    }
    current.race = replace(current.race, ending=ending)


def _best(current: Run) -> PolicyCopy | None:
    """The policy of ``best.zip``; ``None`` if it computes as the last one does."""
    saved = PolicyCopy(load_saved(current.settings, current.monitoring.best_path, current.training)).state_dict()
    last = PolicyCopy(current.model)
    state = last.state_dict()
    if all(torch.equal(tensor, state["policy"][name]) for name, tensor in saved["policy"].items()):
        return None
    last.load_state_dict(saved)
    return last
