"""What the arguments of :func:`daft_rl.transfer` mean: settings, environments and an agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daft_rl.archives import find_agent
from daft_rl.envs.domain import Domain, read_domains, user_domains
from daft_rl.envs.user_env import UserEnv
from daft_rl.errors import AgentError, ConfigError, TaskError
from daft_rl.method import Method, find_method
from daft_rl.plan import check_domains
from daft_rl.resume import read_run, refuse_other
from daft_rl.settings import TransferSettings, default_algorithm, merge, nest, read_algorithm, read_cuda, read_task

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

__all__ = ["DEFAULT_ENV", "DEFAULT_METHOD", "Asked", "read_arguments", "read_resumed"]

DEFAULT_ENV, DEFAULT_METHOD = "Ant-shifted", "auto"


@dataclass(frozen=True)
class Asked:
    """What a caller asks for."""

    settings: TransferSettings
    domains: dict[str, Domain] | None
    """Environments of the caller's own, or those of a task; ``None`` leaves them to the settings."""
    agent: Path | BaseAlgorithm | None
    """An agent, or its archive; ``None`` leaves it to the settings."""


def read_arguments(
    env: str | UserEnv,
    method: str | Method | Mapping[str, Any],
    source: str | Path | BaseAlgorithm | None,
    source_env: UserEnv | None,
    settings: Mapping[str, Any],
    *,
    output_dir: str | Path | None = None,
    algo: str | None = None,
    shift: str | Mapping[str, Any] | None = None,
    **numbers: Any,
) -> Asked:
    """A new run, as :func:`daft_rl.transfer` is asked for it.

    :param settings: by dotted names; they win over all others
    :param numbers: ``total_timesteps`` and ``seed``, where they are given
    :raises DaftError: something does not exist or does not fit
    """
    further = nest(settings)
    _refuse_conflicts(shift, further)
    agent = _checked_agent(source)
    domains = _domains_of_user(env, source, source_env, shift, further)
    name = str(env) if domains is None else domains["target"].name
    values = merge(_defaults(name, find_method(method), source, shift, algo, further.get("vec")) | numbers, further)
    values.setdefault("output_dir", None if output_dir is None else str(output_dir))
    checked = TransferSettings.from_dict(values)
    domains = domains or read_domains(vars(checked.env), checked.evaluation.elsewhere)
    check_domains(domains)
    return Asked(checked, domains, agent)


def read_resumed(
    folder: str | Path,
    env: str | UserEnv,
    method: str | Method | Mapping[str, Any],
    source: str | Path | BaseAlgorithm | None,
    source_env: UserEnv | None,
    given: Mapping[str, Any],
) -> Asked:
    """The run in a folder, which goes on with its own settings.

    :param given: further arguments; none but ``agent.trust`` has a meaning here
    :raises DaftError: another run is asked for, or what it needs is missing
    """
    others = [name for name in given if name != "agent.trust"]
    if others:
        raise ConfigError(
            f"resume={str(folder)!r}: a run goes on with its own settings. Leave out {', '.join(others)}."
        )
    settings = read_run(TransferSettings, folder, given.get("agent.trust") is True)
    domains = None if isinstance(env, str) else user_domains(env, source_env)
    name = (None if env == DEFAULT_ENV else env) if domains is None else domains["target"].name
    refuse_other(settings, name, None if method == DEFAULT_METHOD else find_method(method).name)
    agent = find_agent("", "", source) if isinstance(source, str | Path) else source
    if domains is not None and agent is None and settings.agent.path is None:
        raise AgentError(f"The agent of {folder} was a Python object: pass it again, source=...")
    return Asked(settings, domains, agent)


def _defaults(name: str, method: Method, source: Any, shift: Any, algo: str | None, vec: Any) -> dict[str, Any]:
    """The settings of task, method and algorithm, and what the engine has of its own.

    :param name: of the task
    """
    algorithm = _algorithm_of(source, name) if algo is None else algo
    task = {"env": read_task(name), "algo": read_algorithm(algorithm), "method": method.as_dict()}
    defaults = merge(task, read_cuda(algorithm) if vec == "cuda" else {})
    if shift is not None:
        defaults["env"] = defaults["env"] | {"shift": shift}
    if isinstance(source, str | Path):
        defaults["agent"] = {"path": str(source)}
    return defaults


def _refuse_conflicts(shift: Any, settings: Mapping[str, Any]) -> None:
    """
    :raises ConfigError: settings that would mix two tasks, two algorithms, or a level with single fields of a shift
    """
    for group in ("env", "algo"):
        if "name" in settings.get(group, {}):
            raise ConfigError(f"{group}.name: pass {group}=... itself, so that the settings that belong to it hold.")
    fields = settings.get("env", {}).get("shift")
    if isinstance(shift, str) and isinstance(fields, Mapping):
        raise ConfigError(
            f"shift={shift!r} and env.shift.{next(iter(fields), '')}: a level replaces the shift, a single field "
            "changes the default one. Give the level's own fields one by one (daft_rl.levels)."
        )


def _domains_of_user(
    env: str | UserEnv, source: Any, source_env: UserEnv | None, shift: Any, settings: Mapping[str, Any]
) -> dict[str, Domain] | None:
    """The domains of a user's own environments; ``None`` if ``env`` names a task.

    :raises DaftError: arguments that do not go with the user's own environment, or with a task
    """
    if isinstance(env, str):
        if source_env is not None:
            raise TaskError(f"source_env goes with an environment of your own; the source of env={env!r} is known.")
        return None
    domains = user_domains(env, source_env)
    _refuse_task_settings(shift, settings)
    if source is None:
        raise AgentError("For an environment of your own no source is shipped: pass source=...")
    return domains


def _refuse_task_settings(shift: Any, settings: Mapping[str, Any]) -> None:
    """
    :raises TaskError: settings that an environment of the user's own would ignore
    """
    ours = ("cost_limit", "cost_rate", "cost_multiplier", "step_timeout", "vec_wrappers")
    ignored = [f"env.{key}" for key in settings.get("env", {}) if key not in ours]
    ignored += ["evaluation.elsewhere"] if "elsewhere" in settings.get("evaluation", {}) else []
    if shift is not None or ignored:
        raise TaskError(
            f"{', '.join(ignored) or f'shift={shift}'}: an environment of your own is taken as it is. Put shifts and "
            "wrappers into the environment, or register it with Gymnasium and pass its id."
        )


def _checked_agent(source: str | Path | BaseAlgorithm | None) -> BaseAlgorithm | None:
    """The source, if it is an agent.

    :raises AgentError: a Python object that cannot be transferred
    """
    if source is None or isinstance(source, str | Path):
        return None
    from daft_rl.run.agents import algorithm_of_agent

    algorithm_of_agent(source)
    return source


def _algorithm_of(source: str | Path | BaseAlgorithm | None, task: str) -> str:
    """The algorithm of an agent; without one, the task's default."""
    if source is None:
        return default_algorithm(task)
    if isinstance(source, str | Path):
        find_agent("", "", source)  # refuses at once
    from daft_rl.run.agents import algorithm_of_agent, algorithm_of_archive

    return algorithm_of_archive(str(source)) if isinstance(source, str | Path) else algorithm_of_agent(source)
