"""Archives and the files beside them, written so that an interruption never leaves a mixture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.errors import AgentError
from daft_rl.files import write_json
from daft_rl.rollout.lagrangian import find_constraint

__all__ = ["read_multiplier", "save_agent"]

SIDE_FILES = ("vecnormalize.pkl", "constraint.json")


def save_agent(model: BaseAlgorithm, path: Path, prefix: str = "") -> None:
    """Save an archive, and beside it ``vecnormalize.pkl`` and ``constraint.json`` if the agent needs them.

    :param model: any SB3 algorithm object
    :param path: of the archive, ending in ``.zip``
    :param prefix: of the side files; with ``best_``, those of ``best.zip`` do not collide with those of ``final.zip``
    """
    normalizer, constraint = model.get_vec_normalize_env(), find_constraint(model.get_env())
    with TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as folder:
        unfinished = Path(folder)
        model.save(unfinished / path.name)
        if normalizer is not None:
            normalizer.save(str(unfinished / "vecnormalize.pkl"))
        if constraint is not None:
            write_json(unfinished / "constraint.json", constraint.state())
        # the archive moves last: whenever the process is killed, no agent lies here without its statistics
        places = {name: path.with_name(f"{prefix}{name}") for name in SIDE_FILES}
        for name in (saved.name for saved in list(unfinished.iterdir()) if saved.name in places):
            (unfinished / name).replace(places.pop(name))
        (unfinished / path.name).replace(path)
    for outdated in places.values():  # of an agent that was here before
        outdated.unlink(missing_ok=True)


def read_multiplier(agent: Path | BaseAlgorithm | None) -> float | None:
    """The last multiplier of the limit on costs under which an agent learnt; ``None`` if there was no limit.

    :param agent: an agent, or its archive, beside which :func:`save_agent` has left the multiplier
    :raises AgentError: the file beside the archive is damaged
    """
    if not isinstance(agent, Path):
        constraint = agent and find_constraint(agent.get_env())
        return constraint.multiplier if constraint else None
    for path in (agent.with_name(f"{agent.stem}_constraint.json"), agent.with_name("constraint.json")):
        if path.is_file():
            return _read_multiplier(path)
    return None


def _read_multiplier(path: Path) -> float:
    try:
        with path.open("rb") as opened:
            multiplier = json.loads(opened.read(2**16))["multiplier"]
        if isinstance(multiplier, bool) or not (isinstance(multiplier, int | float) and 0 <= multiplier < math.inf):
            raise ValueError(f"multiplier={multiplier!r} is no number of at least 0")
        return float(multiplier)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise AgentError(
            f"{path} is damaged: {error}. Delete it, or say where the multiplier starts.",
            arguments=("cost_multiplier",),
        ) from error
