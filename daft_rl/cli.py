"""What the command lines share: Hydra, and errors in one message instead of a traceback.

Only this file reads Hydra's configuration. It turns it into typed settings (:mod:`daft_rl.settings`).
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from daft_rl.envs.registry import TASKS
from daft_rl.errors import AgentError, ConfigError, DaftError, DaftWarning
from daft_rl.imports import load_object
from daft_rl.method import Method
from daft_rl.run.names import details
from daft_rl.run.orphans import end_with_launcher
from daft_rl.settings import PretrainSettings, RunSettings, TransferSettings
from daft_rl.validation import plain_data

__all__ = ["compose_config", "compose_settings", "read_settings", "run_command"]

KINDS: dict[str, type[RunSettings]] = {
    "transfer": TransferSettings,
    "pretrain": PretrainSettings,
    "benchmark": TransferSettings,
}
"""Name of a configuration -> its settings."""

NOT_SETTINGS = ("hydra", "benchmark")
"""Parts of the configuration that only Hydra and the grid read."""

KEYS = {
    **{name: f"agent.{name}" for name in ("trust", "policy", "policy_kwargs", "activation", "head", "critic")},
    **{name: f"agent.{name}" for name in ("adapt_spaces", "normalize", "insert_batchnorm")},
    **{name: f"env.{name}" for name in ("id", "shift", "kwargs", "source_kwargs", "wrappers", "cost_limit")},
    **{
        name: name
        for name in ("total_timesteps", "num_envs", "output_dir", "device", "vec", "evaluate_in_background", "algo")
    },
    "step_timeout": "env.step_timeout",
    **{name: f"algo.{name}" for name in ("adaptive_kl", "exploration_std", "most_exploration_std", "actor_scale")},
    "elsewhere": "evaluation.elsewhere",
    "least": "algo.exploration_std",
    "most": "algo.most_exploration_std",
    "env": "env",
    "path": "agent",
    "source": "agent",
}
"""Python argument -> the key that sets it. Other arguments are the algorithm's hyperparameters."""

FOR_EVERY_TASK = {"env": {"step_timeout": None}}
"""Settings of a task that no task has a value for."""


# -- composing ----------------------------------------------------------------------------------------------


def _defaults_of(kind: type[RunSettings]) -> dict[str, Any]:
    """The settings that have a default, as plain data."""
    found = {}
    for field in fields(kind):
        if field.default is not MISSING:
            found[field.name] = plain_data(field.default)
        elif field.default_factory is not MISSING:
            found[field.name] = plain_data(field.default_factory())
    return found


def _store_defaults() -> None:
    """Give Hydra every field of settings, methods and shifts, so that the command line can set each of them."""
    method = {name: value for name, value in Method(name="").as_dict().items() if name != "name"}
    keywords = DictConfig({"kwargs": {}, "source_kwargs": {}})
    for name in keywords:
        OmegaConf.set_struct(keywords[name], False)  # any keyword may be set
    store = ConfigStore.instance().store
    for name in ("transfer", "pretrain"):
        store(group="settings", name=name, package="_global_", node=_defaults_of(KINDS[name]) | FOR_EVERY_TASK)
    OmegaConf.register_new_resolver("run_details", details, replace=True)
    store(group="open", name="kwargs", package="env", node=keywords)
    store(group="fields", name="method", package="method", node=method)
    shift_types = {task.family: task.shift_type for task in TASKS.values()}
    shift_types["gymnasium"] = "daft_rl.envs.registered:RegisteredShift"
    for family, shift_type in shift_types.items():
        store(group="shift", name=family, package="env.shift", node=plain_data(load_object(shift_type)()))


def expand(overrides: Sequence[str], name: str = "transfer") -> list[str]:
    """Write out what a user may shorten: ``agent=X`` is ``agent.path=X``, and implies the agent's algorithm.

    ``vec=cuda`` implies the settings for thousands of worlds.

    :param overrides: as on the command line
    :param name: of the configuration
    :raises AgentError: there is no such agent, or its algorithm is not supported
    :raises ConfigError: a shift is given twice
    """
    expanded = [re.sub("^agent=", "agent.path=", item) for item in overrides]
    # the default shift of a task may have patterns already; these are added to them
    expanded = [re.sub(r"^(env\.shift\.\w+=\{)", r"++\1", item) for item in expanded]
    _refuse_two_shifts(expanded)
    _refuse_mixtures(expanded)
    return expanded + _algorithm_of_agents(expanded) + _settings_of_cuda(expanded, name)


def _refuse_two_shifts(overrides: Sequence[str]) -> None:
    level = next((item for item in overrides if re.match(r"[+]*env\.shift=[^{]", item)), None)
    value = next((item for item in overrides if re.match(r"[+~]*env\.shift\.", item)), None)
    if level and value:
        raise ConfigError(
            f"{level} and {value}: a level replaces the shift, a single value changes the default one. "
            "Give the level's own values one by one (configs/levels.yaml)."
        )


def _refuse_mixtures(overrides: Sequence[str]) -> None:
    """
    :raises ConfigError: a name that would keep the settings of another task or algorithm, or no name
    """
    by_name = any(item in ("env=safety", "env=gymnasium") for item in overrides)
    for item in overrides:
        key, _, value = item.lstrip("+").partition("=")
        if key == "algo.name" or (key == "env.name" and not by_name):
            group = key.partition(".")[0]
            raise ConfigError(f"{item}: choose it by {group}={value}, so that the settings that belong to it hold.")
        if key in ("env", "method", "algo") and value in ("", "null"):
            raise ConfigError(f"{item}: expected a name.")


def _algorithm_of_agents(overrides: Sequence[str]) -> list[str]:
    """``algo=NAME`` of the agents that are given, if no algorithm is."""
    paths = [path for item in overrides if item.startswith("agent.path=") for path in _values(item)]
    if any(item.startswith("algo=") for item in overrides) or paths in ([], [None]):
        return []
    from daft_rl.run.agents import algorithm_of_archive  # PyTorch takes seconds to import

    found = {algorithm_of_archive(str(path)) for path in paths}
    if len(found) > 1:
        raise AgentError(
            f"agent={','.join(map(str, paths))}: agents of {', '.join(sorted(found))}. Sweep one at a time."
        )
    return [f"algo={found.pop()}"]


def _settings_of_cuda(overrides: Sequence[str], name: str) -> list[str]:
    """The settings that ``vec=cuda`` has of its own, by algorithm; a recipe for the training of a source."""
    key, choice = ("recipe", "${env}-${algo}-cuda") if name == "pretrain" else ("cuda", "${algo}")
    chosen = any(item.startswith(f"{key}=") for item in overrides)
    return [f"{key}={choice}"] if "vec=cuda" in overrides and not chosen else []


def _values(override: str) -> list[Any]:
    """The value of an override; the values of a sweep."""
    parsed = OverridesParser.create().parse_override(override)
    given = parsed.sweep_iterator() if parsed.is_sweep_override() else [parsed.value()]
    return [value.text if isinstance(value, QuotedString) else value for value in given]


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration that a command line would give.

    :param name: ``transfer``, ``pretrain`` or ``benchmark``
    :param overrides: as on the command line, ``["env=Ant-shifted", "seed=1"]``
    :raises ConfigError: a name or a key that does not exist
    """
    _store_defaults()
    with _beside_outer_hydra(), initialize_config_module("daft_rl.configs", version_base="1.3"):
        try:
            return compose(name, overrides=expand(overrides, name))
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(explain(error)) from error


def compose_settings(name: str, overrides: Sequence[str]) -> Any:
    """The settings that a command line would give; see :func:`compose_config`."""
    return read_settings(KINDS[name], compose_config(name, overrides))


def read_settings(kind: type[RunSettings], cfg: DictConfig) -> Any:
    """Typed settings from Hydra's configuration.

    :param kind: the settings of the program
    :param cfg: the composed configuration
    :raises DaftError: a value of another kind
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    return kind.from_dict({key: value for key, value in plain.items() if key not in NOT_SETTINGS})


@contextmanager
def _beside_outer_hydra() -> Iterator[None]:
    """Hydra is one per process, and the script that calls us may be a Hydra application of its own."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer


# -- messages -----------------------------------------------------------------------------------------------


def _hint(arguments: Sequence[str]) -> str:
    """How the command line sets what a message speaks of."""
    keys = [KEYS.get(name, f"algo.settings.{name}") for name in arguments]
    return f" (On the command line: {', '.join(f'{key}=...' for key in keys)})" if keys else ""


def explain(error: Exception) -> str:
    """One message: what was wrong, what exists, and which key to set."""
    if isinstance(error, DaftError):
        return f"{error}{_hint(error.arguments)}"
    said = str(error).strip().splitlines()
    lines = [line for line in said if not line.startswith("To append to your config")]  # nothing would read such a key
    cause: BaseException | None = error
    while cause is not None:
        parent = getattr(cause, "parent_node", None)
        if isinstance(parent, DictConfig):
            lines.append(f"What exists: {', '.join(sorted(str(key) for key in parent))}.")
            break
        cause = cause.__cause__
    return "\n".join(lines)


@contextmanager
def hints_on_warnings() -> Iterator[None]:
    """Show our warnings in one line, with the keys that help."""
    show = warnings.showwarning

    def with_hint(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if isinstance(message, DaftWarning):
            print(f"Warning: {message}{_hint(message.arguments)}", file=sys.stderr)
        else:
            show(message, category, *rest)

    warnings.showwarning = with_hint  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = show


# -- running ------------------------------------------------------------------------------------------------


def run_command(
    name: str, run: Callable[[Any], Any], refuse: Callable[[dict[str, Any], DaftError], Any] | None = None
) -> None:
    """Run a command line.

    :param name: of the configuration, ``transfer``, ``pretrain`` or ``benchmark``
    :param run: takes the settings
    :param refuse: takes a configuration that makes no settings, and the error; without it the program ends there
    """

    def job(cfg: DictConfig) -> None:
        end_with_launcher()
        try:
            settings = read_settings(KINDS[name], cfg)
        except DaftError as error:
            if refuse is not None:
                refuse(OmegaConf.to_container(cfg, resolve=True), error)  # type: ignore[arg-type]
                return
            stop(error)
        try:
            with hints_on_warnings():
                run(settings)
        except DaftError as error:
            stop(error)

    def stop(error: DaftError) -> NoReturn:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise type(error)(explain(error)) from error  # Hydra tells which job it was
        print(explain(error), file=sys.stderr)
        sys.exit(2)

    _store_defaults()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing; we print below
    try:
        sys.argv[1:] = expand(sys.argv[1:], name)
        hydra.main(config_path="pkg://daft_rl.configs", config_name=name, version_base="1.3")(job)()
    except (DaftError, HydraException, OmegaConfBaseException) as error:
        print(explain(error), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
