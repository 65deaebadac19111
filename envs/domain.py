"""The domains of a transfer: the source, where the policy was trained, and the target, where it adapts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from daft_rl.envs.dependencies import require_installed
from daft_rl.envs.factory import fastest_kind, make, make_vec
from daft_rl.envs.randomization import ShiftRange
from daft_rl.envs.registered import RegisteredShift
from daft_rl.envs.registry import get_task, read_shift, source_of
from daft_rl.envs.shift import Shift
from daft_rl.envs.user_env import UserEnv, env_factory, env_name
from daft_rl.errors import TaskError

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from daft_rl.envs.other_body import SeenAs

__all__ = ["Domain", "read_domains", "user_domains"]


@dataclass(frozen=True)
class Domain:
    """A task with its shift, or the user's own environment."""

    name: str
    shift: Shift | ShiftRange | None = None
    maker: Callable[[], gym.Env] | None = None
    """Makes the user's own environment; ``None`` for a task."""
    seen_as: SeenAs | None = None
    """The other body as which this one is seen and moved, if it is."""

    @property
    def is_ours(self) -> bool:
        """Whether daft_rl makes the environment; not the user, and not somebody else's registration."""
        return self.maker is None and not get_task(self.name).registered

    @property
    def has_cost(self) -> bool:
        """Whether ``info`` is known to have ``episode_cost``."""
        return self.is_ours and get_task(self.name).has_cost

    @property
    def moves_anew(self) -> bool:
        """Whether nothing may be there that moves the source's body."""
        return self.maker is None and get_task(self.name).moves_anew

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of the shift that change something."""
        return {} if self.shift is None else self.shift.changes()

    @property
    def body(self) -> Any:
        """What decides which entries observations and actions have: domains with equal ones have the same."""
        if self.maker is not None:
            return self.maker
        task, shift = get_task(self.name), self.shift.low if isinstance(self.shift, ShiftRange) else self.shift
        changes = {} if shift is None else {name: getattr(shift, name) for name in shift.fields_of_body()}
        return repr((task.entry_point, task.kwargs, changes))  # keywords may hold arrays, which do not compare

    def make(self, render_mode: str | None = None) -> gym.Env:
        """Make one environment.

        :param render_mode: ignored by the user's own environments, which decide themselves how they render
        """
        env = make(self.name, self.shift, render_mode=render_mode) if self.maker is None else self.maker()
        if self.seen_as is None:
            return env
        from daft_rl.envs.other_body import OtherBody

        return OtherBody(env, self.seen_as)

    def steps_in_threads(self, vec: str) -> bool:
        """Whether :meth:`make_vec` makes a batch that steps in threads, where many environments cost little."""
        if vec != "auto" or self.maker is not None:
            return vec == "threads"
        shift = self.shift.low if isinstance(self.shift, ShiftRange) else self.shift
        return fastest_kind(get_task(self.name), shift) == "threads"

    def make_vec(
        self,
        num_envs: int,
        vec: str,
        device: str = "cuda",
        step_timeout: float | None = None,
        replayable: bool = False,
    ) -> VecEnv:
        """Make a batch, see :func:`daft_rl.envs.make_vec`.

        If ``info`` of a user's environment has the ``cost`` of a step, the batch adds ``episode_cost``.
        """
        venv = make_vec(
            self.maker or self.name,
            num_envs=num_envs,
            shift=self.shift,
            vec=vec,
            device=device,
            step_timeout=step_timeout,
            replayable=replayable,
        )
        if self.seen_as is not None:
            from daft_rl.envs.other_body import OtherBodyVecEnv

            venv = OtherBodyVecEnv(venv, self.seen_as)
        if self.is_ours or vec == "cuda":
            return venv
        from daft_rl.envs.episode_costs import EpisodeCosts  # imports PyTorch, which takes seconds

        return EpisodeCosts(venv)


def read_domains(env: Mapping[str, Any], elsewhere: Sequence[str] = ()) -> dict[str, Domain]:
    """Build ``target``, ``source`` and further domains from plain data.

    :param env: ``name`` of the task; optionally ``shift`` of the target (by default the task's) and ``source_shift``
        (by default none), in any notation of :func:`daft_rl.envs.read_shift`. For an environment of Gymnasium's
        registry also ``wrappers`` (import paths; for all domains), ``kwargs`` (keywords of the target's constructor)
        and ``source_kwargs``
    :param elsewhere: levels of other shifts of the task. Each of them becomes a domain with that name
    :return: ``target``, ``source``, then the levels elsewhere
    :raises TaskError: a task, level or field does not exist, a value is impossible, a level elsewhere is the target,
        or the simulator is not installed
    """
    if isinstance(elsewhere, str):
        raise TaskError(
            f"elsewhere: expected a list of levels, [{elsewhere}], got '{elsewhere}'.", arguments=("elsewhere",)
        )
    name, source = env["name"], source_of(env["name"])
    require_installed(get_task(name).package)
    domains = {
        "target": _read_domain(name, env.get("shift"), env, "kwargs"),
        "source": _read_domain(source, env.get("source_shift") or {}, env, "source_kwargs"),
    }
    for level in elsewhere:
        domains[level] = _read_domain(name, level, env, "kwargs")
        if domains[level].changes == domains["target"].changes:
            raise TaskError(
                f"elsewhere: '{level}' is the target, where the policy learns. Leave it out.", arguments=("elsewhere",)
            )
    return domains


def _read_domain(name: str, shift: Any, env: Mapping[str, Any], keywords: str) -> Domain:
    """Read one domain. The keywords and wrappers of an environment of Gymnasium's registry hold under every shift.

    :param keywords: the entry of ``env`` with the constructor's keywords
    """
    read = read_shift(name, shift)
    given = read.low if isinstance(read, ShiftRange) else read
    if not isinstance(given, RegisteredShift):
        ignored = next((key for key in ("wrappers", "kwargs", "source_kwargs") if env.get(key)), None)
        if ignored is not None:
            raise TaskError(
                f"{ignored}: task '{name}' is taken as it is. Wrappers and keywords go with environments that are "
                "registered with Gymnasium.",
                arguments=(ignored,),
            )
        return Domain(name, read)
    wrappers, kwargs = env.get("wrappers", ()), env.get(keywords, {})
    if isinstance(wrappers, str):
        raise TaskError(
            f"wrappers: expected a list of import paths, ['my_package:MyWrapper'], got {wrappers!r}.",
            arguments=("wrappers",),
        )
    if not isinstance(kwargs, Mapping):
        raise TaskError(f"{keywords}: expected names with values, got {kwargs!r}.", arguments=(keywords,))
    making: dict[str, Any] = {"kwargs": {**kwargs, **given.kwargs}, "wrappers": (*wrappers, *given.wrappers)}
    return Domain(name, read.replace(**making) if isinstance(read, ShiftRange) else replace(given, **making))


def user_domains(target: UserEnv, source: UserEnv | None) -> dict[str, Domain]:
    """Build ``target`` and, if given, ``source`` from environments of the user.

    :param target: an environment, or a function that makes one
    :param source: likewise
    :raises TaskError: they are no environments, or they cannot be copied
    """
    given = {"target": target} if source is None else {"target": target, "source": source}
    if any(isinstance(env, str) for env in given.values()):
        raise TaskError(
            "env and source_env: expected two names of tasks or two environments, got one of each.",
            arguments=("env", "source_env"),
        )
    return {role: Domain(env_name(env), maker=env_factory(env)) for role, env in given.items()}
