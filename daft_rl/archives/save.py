"""STUB"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_wrapper

from daft_rl.files import write_json
from daft_rl.rollout.lagrangian import Lagrangian


def save_agent(model: BaseAlgorithm, path: Path, prefix: str = "") -> None:
    """Save an archive, and beside it what belongs to it: ``vecnormalize.pkl`` and ``constraint.json``.

    :param model: any SB3 algorithm object
    :param path: of the archive, ending in ``.zip``
    :param prefix: of the names beside it; ``best_`` keeps what belongs to ``best.zip`` from ``final.zip``
    """
    normalizer, constraint = model.get_vec_normalize_env(), find_constraint(model.get_env())
    with TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as folder:
        unfinished = Path(folder)
        model.save(unfinished / path.name)
        if normalizer is not None:
            normalizer.save(str(unfinished / "vecnormalize.pkl"))
        if constraint is not None:
            write_json(unfinished / "constraint.json", constraint.state())
        # the archive after what it needs: whenever the process is killed, no agent lies here without its statistics
        beside = {name: path.with_name(f"{prefix}{name}") for name in ("vecnormalize.pkl", "constraint.json")}
        for name in (saved.name for saved in list(unfinished.iterdir()) if saved.name in beside):
            (unfinished / name).replace(beside.pop(name))
        (unfinished / path.name).replace(path)
    for old in beside.values():  # of an agent that was here before
        old.unlink(missing_ok=True)


def read_multiplier(agent: Path | BaseAlgorithm | None) -> float | None:
    """The multiplier that an agent learnt under last; of an archive, what :func:`save_agent` left beside it."""
    if not isinstance(agent, Path):
        constraint = agent and find_constraint(agent.get_env())
        return constraint.multiplier if constraint else None
    archive = agent
    for path in (archive.with_name(f"{archive.stem}_constraint.json"), archive.with_name("constraint.json")):
        if path.is_file():
            return float(json.loads(path.read_text("utf-8"))["multiplier"])
    return None


def find_constraint(venv: VecEnv | None) -> Lagrangian | None:
    """The limit on costs that a model learns under, if there is one."""
    return None if venv is None else unwrap_vec_wrapper(venv, Lagrangian)  # type: ignore[return-value]
