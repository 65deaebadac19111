"""Typed settings from Hydra's configuration. Only this file and the command line see that configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from functools import cache
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from daft_rl.envs.registry import TASKS
from daft_rl.errors import ConfigError, DaftError
from daft_rl.hydra_messages import explain_hydra
from daft_rl.imports import load_object
from daft_rl.method import Method
from daft_rl.overrides import expand
from daft_rl.run.names import details, shortened, task_folder
from daft_rl.settings import PretrainSettings, RunSettings, TransferSettings
from daft_rl.validation import plain_data

__all__ = [
    "KINDS",
    "compose_config",
    "compose_job",
    "compose_parts",
    "compose_settings",
    "read_settings",
    "store_defaults",
]

KINDS: dict[str, type[RunSettings]] = {
    "transfer": TransferSettings,
    "pretrain": PretrainSettings,
    "benchmark": TransferSettings,
}
"""Name of a configuration -> its settings."""


def _help_text(name: str) -> str:
    from daft_rl.help import help_text  # only --help needs it

    return help_text(name)


RESOLVERS: dict[str, Callable[..., str]] = {
    "details": details,
    "help_text": _help_text,
    "shortened": shortened,
    "task_folder": task_folder,
}
"""What ``${NAME:...}`` in a configuration calls."""
for _name, _resolver in RESOLVERS.items():  # here, because a launcher's workers import this file and compose nothing
    OmegaConf.register_new_resolver(_name, _resolver, replace=True)


FOR_EVERY_TASK: dict[str, Any] = {"env": {"step_timeout": None, "vec_wrappers": []}}
"""Settings of a task that no task has a value for."""


def _defaults_of(kind: type[RunSettings]) -> dict[str, Any]:
    """The settings that have a default, as plain data."""
    found = {}
    for field in fields(kind):
        if field.default is not MISSING:
            found[field.name] = plain_data(field.default)
        elif field.default_factory is not MISSING:
            found[field.name] = plain_data(field.default_factory())
    return found


@cache
def store_defaults() -> None:
    """Give Hydra every field of settings, methods and shifts, so that the command line can set each of them."""
    method = {name: value for name, value in Method(name="any").as_dict().items() if name != "name"}
    keywords = DictConfig({"kwargs": {}, "source_kwargs": {}})
    for name in keywords:
        OmegaConf.set_struct(keywords[name], False)  # any keyword may be set
    store = ConfigStore.instance().store
    for name in ("transfer", "pretrain"):
        store(group="settings", name=name, package="_global_", node=_defaults_of(KINDS[name]) | FOR_EVERY_TASK)
    store(group="open", name="kwargs", package="env", node=keywords)
    store(group="fields", name="method", package="method", node=method)
    shift_types = {task.family: task.shift_type for task in TASKS.values()}
    shift_types["gymnasium"] = "daft_rl.envs.registered:RegisteredShift"
    for family, shift_type in shift_types.items():
        store(group="shift", name=family, package="env.shift", node=plain_data(load_object(shift_type)()))


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration that a command line would give.

    :param name: ``transfer``, ``pretrain`` or ``benchmark``
    :param overrides: as on the command line, ``["env=Ant-shifted", "seed=1"]``
    :raises ConfigError: a name or a key that does not exist
    """
    return compose_parts(name, expand(overrides, name))


def compose_parts(name: str, overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """As :func:`compose_config`, from overrides that are expanded already.

    :param with_hydra: whether Hydra's own part of the configuration is in it
    """
    store_defaults()
    with beside_outer_hydra(), initialize_config_module("daft_rl.configs", version_base="1.3"):
        try:
            return compose(name, overrides=list(overrides), return_hydra_config=with_hydra)
        except Exception as error:  # Hydra's and OmegaConf's own, and what their parsers raise
            raise ConfigError(explain_hydra(error)) from error


def compose_settings(name: str, overrides: Sequence[str]) -> Any:
    """The settings that a command line would give; see :func:`compose_config`."""
    return read_settings(KINDS[name], compose_config(name, overrides))


def compose_job(name: str, overrides: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """The settings that a job of Hydra would get.

    :param name: of the program's configuration
    :param overrides: expanded, without sweeps
    :return: the settings, and Hydra's own part of the configuration as plain data
    :raises DaftError: a name or a key does not exist, or a value is impossible
    """
    cfg = compose_parts(name, overrides, with_hydra=True)
    with beside_outer_hydra():
        try:
            HydraConfig.instance().set_config(cfg)
            _set_output_dir("unknown")
            read_settings(KINDS[name], cfg)  # a mistake is named before the folder that it would be part of
            _set_output_dir(str(cfg.hydra.run.dir))
            hydra_part: Any = OmegaConf.to_container(cfg.hydra, resolve=False)
            return read_settings(KINDS[name], cfg), hydra_part
        except DaftError:
            raise
        except Exception as error:  # as above
            raise ConfigError(explain_hydra(error)) from error


def _set_output_dir(folder: str) -> None:
    """What ``${hydra:runtime.output_dir}`` stands for."""
    runtime: Any = HydraConfig.get().runtime
    with read_write(runtime), open_dict(runtime):
        runtime.output_dir = folder


def read_settings(kind: type[RunSettings], cfg: DictConfig) -> Any:
    """Typed settings from Hydra's configuration.

    :param kind: the settings of the program
    :param cfg: the composed configuration
    :raises DaftError: a value of another kind
    """
    try:
        plain = {str(key): _plain(cfg[key]) for key in cfg if key != "hydra"}
    except OmegaConfBaseException as error:
        raise ConfigError(explain_hydra(error)) from error
    grid = plain.pop("benchmark", {"folder": ""})
    if not isinstance(grid, dict) or [*grid] != ["folder"]:
        raise ConfigError(f"benchmark: expected a folder, benchmark.folder=..., got {grid!r}.")
    return kind.from_dict(plain)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if OmegaConf.is_config(value) else value


@contextmanager
def beside_outer_hydra() -> Iterator[None]:
    """Hydra is one per process, and the script that calls us may be a Hydra application of its own."""
    outer, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer
        HydraConfig.instance().cfg = config
