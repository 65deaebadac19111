"""The two domains of a transfer: where the policy comes from, and where it is to act."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from daft_rl.envs.installed import check_installed
from daft_rl.envs.registered import RegisteredShift
from daft_rl.envs.registry import get_task, make, make_vec, own_maker, read_shift, source_of
from daft_rl.envs.shift import Shift
from daft_rl.errors import TaskError

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

__all__ = ["Domain", "Own", "own_domains", "read_domains"]

Own = gym.Env | Callable[[], gym.Env]
"""An environment of the user's, or a function that makes one."""


@dataclass(frozen=True)
class Domain:
    """A task with its shift, or the user's own environment."""

    name: str
    shift: Shift | None = None
    maker: Callable[[], gym.Env] | None = None
    """Makes the user's own environment; ``None`` for a task."""

    @property
    def is_ours(self) -> bool:
        """Whether it is a task of daft_rl, and not the user's."""
        return self.maker is None and get_task(self.name).family != "gymnasium"

    @property
    def has_cost(self) -> bool:
        """Whether episodes are known to report ``episode_cost``."""
        return self.is_ours and get_task(self.name).has_cost

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of the shift that change something."""
        return {} if self.shift is None else self.shift.changes()

    def make(self, render_mode: str | None = None) -> gym.Env:
        """One environment. The user's own decide themselves how they render."""
        return make(self.name, self.shift, render_mode=render_mode) if self.maker is None else self.maker()

    def steps_in_threads(self, vec: str) -> bool:
        """Whether :meth:`make_vec` makes a batch whose environments are cheap to have many of."""
        return vec == "threads" or (vec == "auto" and self.maker is None and get_task(self.name).vec == "threads")

    def make_vec(self, num_envs: int, vec: str) -> VecEnv:
        """A batch; see :func:`daft_rl.envs.make_vec`. The user's own may tell the ``cost`` of a step in ``info``."""
        venv = make_vec(self.maker or self.name, num_envs=num_envs, shift=self.shift, vec=vec)
        if self.is_ours:
            return venv
        from daft_rl.envs.costs import EpisodeCosts

        return EpisodeCosts(venv)


def read_domains(env: Mapping[str, Any], elsewhere: Sequence[str] = ()) -> dict[str, Domain]:
    """``target`` and ``source``, as the configuration says.

    :param env: ``name``; ``shift`` of the target; ``source_shift``, by default none
    :param elsewhere: levels of other shifts of the task, each of which is a domain by that name
    :raises TaskError: an unknown task or field, an impossible value, a level elsewhere that is the target, or a
        simulator that is not installed
    """
    if isinstance(elsewhere, str):
        raise TaskError(f"evaluation.elsewhere={elsewhere}: expected a list of levels, [{elsewhere}].")
    target, source = env["name"], source_of(env["name"])
    check_installed(get_task(target).package)

    def domain(name: str, shift: Any, keywords: str) -> Domain:
        """``env=gymnasium`` has keywords and wrappers, which hold under every shift."""
        read = read_shift(name, shift)
        if isinstance(read, RegisteredShift):
            wrappers, given = env.get("wrappers", ()), env.get(keywords, {})
            if isinstance(wrappers, str) or not isinstance(given, Mapping):
                raise TaskError(
                    f"env.wrappers={wrappers!r}, env.{keywords}={given!r}: expected a list of import paths, "
                    "['my_package:MyWrapper'], and keywords with values."
                )
            read = replace(read, kwargs={**given, **read.kwargs}, wrappers=(*wrappers, *read.wrappers))
        return Domain(name, read)

    domains = {
        "target": domain(target, env["shift"], "kwargs"),
        "source": domain(source, env.get("source_shift") or {}, "source_kwargs"),
        **{level: domain(target, level, "kwargs") for level in elsewhere},
    }
    for level in elsewhere:
        if domains[level].changes == domains["target"].changes:
            raise TaskError(f"evaluation.elsewhere: '{level}' is the target, where the policy learns. Leave it out.")
    return domains


def own_domains(target: Own, source: Own | None) -> dict[str, Domain]:
    """``target``, and ``source`` if there is one, from environments of the user's.

    :raises TaskError: they are no environments, or cannot be copied
    """
    given = {"target": target} if source is None else {"target": target, "source": source}
    if any(isinstance(env, str) for env in given.values()):
        raise TaskError("Of env and source_env, either both are names in the configuration or none is.")
    return {role: Domain(_name(env), maker=own_maker(env)) for role, env in given.items()}


def _name(env: Own) -> str:
    if isinstance(env, gym.Env):
        return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    name = getattr(env, "__name__", type(env).__name__)
    return "own" if name == "<lambda>" else name
