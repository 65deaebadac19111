"""What the command lines share: Hydra, and errors in one message instead of a traceback."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.resources import files
from typing import Any

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

from daft_rl.errors import AgentError, ConfigError, DaftError
from daft_rl.method import Method

__all__ = ["compose_config", "run_command"]


def _store_defaults() -> None:
    """Every field of a shift and of a method is a key of the configuration, so that the command line can set it."""
    from daft_rl.envs.registry import TASKS
    from daft_rl.imports import load_object

    method = {name: value for name, value in Method(name="").as_dict().items() if name != "name"}
    keywords = DictConfig({"kwargs": {}, "source_kwargs": {}})
    for name in keywords:
        OmegaConf.set_struct(keywords[name], False)  # any keyword may be set
    store = ConfigStore.instance().store
    store(group="open", name="kwargs", package="env", node=keywords)
    store(group="fields", name="method", package="method", node=method)
    shift_types = {task.family: task.shift_type for task in TASKS.values()}
    shift_types["gymnasium"] = "daft_rl.envs.registered:RegisteredShift"
    for family, shift_type in shift_types.items():
        store(group="shift", name=family, package="env.shift", node=asdict(load_object(shift_type)()))


def expand(overrides: list[str]) -> list[str]:
    """``agent=X`` stands for ``agent.path=X``; the agent's algorithm is chosen where none is.

    :param overrides: as on the command line
    :raises AgentError: there is no such agent, or its algorithm is not supported
    :raises ConfigError: a shift is given twice
    """
    overrides = [re.sub("^agent=", "agent.path=", item) for item in overrides]
    # the default shift of a task may have patterns already, to which these are added
    overrides = [re.sub(r"^(env\.shift\.\w+=\{)", r"++\1", item) for item in overrides]
    level = next((item for item in overrides if re.match(r"[+]*env\.shift=[^{]", item)), None)
    value = next((item for item in overrides if re.match(r"[+~]*env\.shift\.", item)), None)
    if level and value:
        raise ConfigError(
            f"{level} and {value}: a level replaces the shift, a single value changes the default one. "
            "Give the level's own values one by one (configs/levels.yaml)."
        )
    paths = [path for item in overrides if item.startswith("agent.path=") for path in _values(item)]
    if any(item.startswith("algo=") for item in overrides) or paths in ([], [None]):
        return overrides
    from daft_rl.archives import find_agent, read_archive  # PyTorch takes seconds to import

    archives = [find_agent("", "", str(path)) for path in paths]
    try:
        found = {str(read_archive(archive).algorithm) for archive in archives}
    except AgentError as error:
        raise AgentError(f"{error} (With algo=..., the algorithm does not have to be found out.)") from error
    known = sorted(path.stem for path in (files("daft_rl.configs") / "algo").iterdir())  # type: ignore[attr-defined]
    if len(found) > 1 or not {name.lower() for name in found} <= {*known}:
        of = f"agent={','.join(map(str, paths))}: of {', '.join(sorted(found))}"
        raise AgentError(f"{of}. Supported, one at a time: {', '.join(known)}.")
    return [*overrides, f"algo={found.pop().lower()}"]


def _values(override: str) -> list[Any]:
    """What is given in an override; several values in a sweep."""
    parsed = OverridesParser.create().parse_override(override)
    given = parsed.sweep_iterator() if parsed.is_sweep_override() else [parsed.value()]
    return [value.text if isinstance(value, QuotedString) else value for value in given]


def apply_overrides(cfg: DictConfig, overrides: list[str]) -> None:
    """Set single values in a composed configuration.

    :param cfg: it is changed
    :param overrides: as on the command line
    """
    for override in overrides:
        OmegaConf.update(cfg, override.lstrip("+").partition("=")[0], _values(override)[0], force_add=True)


def compose_config(name: str, overrides: list[str]) -> DictConfig:
    """The configuration that a command line would give.

    :param name: ``transfer``, ``pretrain`` or ``benchmark``
    :param overrides: as on the command line, ``["env=Ant-shifted", "seed=1"]``
    :raises ConfigError: a name or a key that does not exist
    """
    _store_defaults()
    with _beside_another_hydra(), initialize_config_module("daft_rl.configs", version_base="1.3"):
        try:
            return compose(name, overrides=expand(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_explain(error)) from error


@contextmanager
def _beside_another_hydra() -> Iterator[None]:
    """Hydra is one per process, and the script that calls us may be an application of its own."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer


def _explain(error: Exception) -> str:
    """One message: what was wrong, and what exists."""
    told = str(error).strip().splitlines()
    lines = [line for line in told if not line.startswith("To append to your config")]  # which nothing would read
    cause: BaseException | None = error
    while cause is not None:
        parent = getattr(cause, "parent_node", None)
        if isinstance(parent, DictConfig):
            lines.append(f"What exists: {', '.join(sorted(str(key) for key in parent))}.")
            break
        cause = cause.__cause__
    return "\n".join(lines)


def run_command(name: str, run: Callable[[DictConfig], Any]) -> None:
    """Run a command line.

    :param name: of the configuration, ``transfer``, ``pretrain`` or ``benchmark``
    :param run: takes the composed configuration
    """

    def job(cfg: DictConfig) -> None:
        try:
            run(cfg)
        except DaftError as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # Hydra tells which job it was
            print(error, file=sys.stderr)
            sys.exit(2)

    _store_defaults()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing; we print below
    try:
        sys.argv[1:] = expand(sys.argv[1:])
        hydra.main(config_path="pkg://daft_rl.configs", config_name=name, version_base="1.3")(job)()
    except (DaftError, HydraException, OmegaConfBaseException) as error:
        print(_explain(error), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


def plain(node: Any) -> Any:
    """A configuration node as plain dictionaries, lists and values, interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True, throw_on_missing=True) if OmegaConf.is_config(node) else node
