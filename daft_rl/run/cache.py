"""Zero-shot returns that the runs of a grid share: they depend on the source, and on neither method nor seed."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.envs.domain import Domain
from daft_rl.files import UNFINISHED, write_json
from daft_rl.rollout.returns import Returns
from daft_rl.run.fingerprints import fingerprint, fingerprint_agent
from daft_rl.settings import TransferSettings
from daft_rl.validation import plain_data

__all__ = ["cached_returns"]


def cached_returns(
    folder: Path | None,
    settings: TransferSettings,
    agent: Path | BaseAlgorithm,
    domains: Mapping[str, Domain],
    play: Callable[[Mapping[str, Domain]], Mapping[str, Returns]],
) -> dict[str, Returns]:
    """Take returns that another run played under the same conditions; play the others and keep them for the next run.

    :param folder: of the grid; ``None`` plays in every domain
    :param settings: of the run
    :param agent: the source; only returns of archives are kept
    :param domains: role -> where it plays
    :param play: plays in some of the domains
    :return: role -> returns
    """
    if folder is None or not isinstance(agent, Path):
        return dict(play(domains))
    returns = {}
    for role, domain in domains.items():
        conditions = _conditions(settings, agent, domain)
        path = folder / f"{fingerprint(conditions)}.json"
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # missing or damaged
            returns[role] = Returns.from_dict(json.loads(path.read_text("utf-8"))["returns"])
            continue
        returns |= play({role: domain})  # alone: how many play together may change the last bits
        _write(path, {"about": conditions, "returns": returns[role].as_dict()})
    return returns


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write one file after the other, so that an unfinished one is surely that of a process that was killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed when the process ends, however it ends
        for leftover in path.parent.glob(f"{UNFINISHED}*"):
            leftover.unlink()
        write_json(path, content)


def _conditions(settings: TransferSettings, agent: Path, domain: Domain) -> dict[str, Any]:
    """All that the returns of a source depend on, down to the last bit on one machine."""
    evaluation, other_body = settings.evaluation, domain.seen_as
    return {
        "agent": fingerprint_agent(agent, settings.agent.vecnormalize),
        "read_with": plain_data(settings.agent) | {"path": None},
        "algo": settings.algo.name,
        "domain": [domain.name, plain_data(domain.changes)],
        "episodes": [evaluation.episodes, evaluation.episodes_during, evaluation.seed],
        "computed": [settings.vec, settings.device, settings.torch_threads],
        "seed": None,  # nothing is drawn by chance
    } | ({} if other_body is None else {"seen_as": plain_data(other_body.correspondence)})
