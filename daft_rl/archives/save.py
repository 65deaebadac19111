"""Archives and the files beside them, written so that an interruption never leaves a mixture."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from gymnasium import spaces
from stable_baselines3.common import save_util
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from daft_rl.archives.checks import wrap_errors
from daft_rl.errors import AgentError
from daft_rl.files import UNFINISHED, sync, write_json
from daft_rl.rollout.lagrangian import find_constraint

__all__ = ["read_multiplier", "save_agent"]

MAX_CONSTRAINT_BYTES = 64 * 1024

PROTOCOL = 4
"""Of pickles. By protocol 5, NumPy 2 names a module for its arrays that NumPy 1 does not have."""

SIDE_FILES = ("vecnormalize.pkl", "constraint.json")


def save_agent(model: BaseAlgorithm, path: Path, prefix: str = "") -> None:
    """Save an archive, and beside it ``vecnormalize.pkl`` and ``constraint.json`` if the agent needs them.

    :param model: any SB3 algorithm object
    :param path: of the archive, ending in ``.zip``
    :param prefix: of the side files; with ``best_``, those of ``best.zip`` do not collide with those of ``final.zip``
    """
    normalizer, constraint = model.get_vec_normalize_env(), find_constraint(model.get_env())
    with TemporaryDirectory(dir=path.parent, prefix=UNFINISHED) as folder:
        unfinished = Path(folder)
        with _for_every_numpy(model, normalizer):
            model.save(unfinished / path.name)
            if normalizer is not None:  # what `normalizer.save` does, by an older protocol
                (unfinished / "vecnormalize.pkl").write_bytes(pickle.dumps(normalizer, protocol=PROTOCOL))
        if constraint is not None:
            write_json(unfinished / "constraint.json", constraint.state())
        for saved in [*unfinished.iterdir(), unfinished]:
            sync(saved)  # or the names may reach the disk before the content
        # the archive moves last: whenever the process is killed, no agent lies here without its statistics
        places = {name: path.with_name(f"{prefix}{name}") for name in SIDE_FILES}
        for name in (saved.name for saved in list(unfinished.iterdir()) if saved.name in places):
            (unfinished / name).replace(places.pop(name))
        (unfinished / path.name).replace(path)
    for outdated in places.values():  # of an agent that was here before
        outdated.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def _for_every_numpy(*owners: BaseAlgorithm | VecNormalize | None) -> Iterator[None]:
    """Inside of the block, what SB3 pickles can be read with NumPy 1 and 2.

    :param owners: objects whose spaces are pickled. Generators of random numbers, which only one of the two reads, are
        left out: they serve samples of a space, and whoever loads an agent seeds it anew
    """
    found = [space for one in owners if one for space in _with_inner(one.observation_space, one.action_space)]
    generators = [space._np_random for space in found]
    before = save_util.cloudpickle
    names = vars(before) | {"dumps": partial(before.dumps, protocol=PROTOCOL)}
    save_util.cloudpickle = SimpleNamespace(**names)  # type: ignore[assignment]
    try:
        for space in found:
            space._np_random = None  # type: ignore[assignment]  # so it is before it is first asked
        yield
    finally:
        save_util.cloudpickle = before
        for space, generator in zip(found, generators, strict=True):
            space._np_random = generator


def _with_inner(*outer: spaces.Space[Any]) -> Iterator[spaces.Space[Any]]:
    """Spaces, and those inside of dictionaries and tuples."""
    for space in outer:
        yield space
        if isinstance(space, spaces.Dict):
            yield from _with_inner(*space.spaces.values())
        elif isinstance(space, spaces.Tuple):
            yield from _with_inner(*space.spaces)


def read_multiplier(agent: Path | BaseAlgorithm | None) -> float | None:
    """The last multiplier of the limit on costs under which an agent learnt; ``None`` if there was no limit.

    :param agent: an agent, or its archive, beside which :func:`save_agent` has left the multiplier
    :raises AgentError: the file with the multiplier is damaged
    """
    if not isinstance(agent, Path):
        constraint = agent and find_constraint(agent.get_env())
        return constraint.multiplier if constraint else None
    for path in (agent.with_name(f"{agent.stem}_constraint.json"), agent.with_name("constraint.json")):
        if path.is_file():
            return _multiplier_in(path)
    return None


def _multiplier_in(path: Path) -> float:
    """
    :raises AgentError: the file is damaged
    """
    size = path.stat().st_size
    if size > MAX_CONSTRAINT_BYTES:
        raise AgentError(f"{path} has {size} bytes; the state of a limit on costs has at most {MAX_CONSTRAINT_BYTES}.")
    with wrap_errors(f"{path} is damaged", "Set cost_multiplier, or delete the file.", ("cost_multiplier",)):
        multiplier = json.loads(path.read_text("utf-8"))["multiplier"]
        if type(multiplier) not in (int, float) or not 0 <= multiplier < math.inf:
            raise ValueError(f"multiplier={str(multiplier)[:50]}, expected a number of at least 0")
        return float(multiplier)  # a whole number may be too large
