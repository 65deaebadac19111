"""What the command lines share: checks before anything starts, and errors in one message instead of a traceback."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from daft_rl.composing import (
    KINDS,
    compose_config,
    compose_job,
    compose_parts,
    compose_settings,
    read_settings,
    store_defaults,
)
from daft_rl.consent import has_foreign_files, refuse_hydra, refuse_unsaid
from daft_rl.errors import ConfigError, DaftError, DaftWarning
from daft_rl.files import refused_by_disk
from daft_rl.help import nothing_said
from daft_rl.hydra_messages import explain_hydra
from daft_rl.hydra_parser import let_hydra_parse
from daft_rl.outputs import tell
from daft_rl.overrides import axes_of_sweep, expand, first_of_sweep, quoted, refuse_fields_beside_axis
from daft_rl.plan import check_plan
from daft_rl.run.interruption import RESUMABLE, Interrupted, interruption
from daft_rl.run.lock import LOCK_FILE
from daft_rl.run.names import EVENT_FILES
from daft_rl.run.orphans import end_with_launcher

__all__ = ["compose_config", "compose_settings", "expand", "read_settings", "run_command"]

KEYS = {
    **{name: f"agent.{name}" for name in ("trust", "policy", "policy_kwargs", "activation", "head", "critic")},
    **{
        name: f"agent.{name}"
        for name in ("correspondence", "normalize", "insert_batchnorm", "vecnormalize", "norm_reward")
    },
    **{
        name: f"env.{name}"
        for name in (
            "id",
            "shift",
            "kwargs",
            "source_kwargs",
            "wrappers",
            "vec_wrappers",
            "cost_limit",
            "cost_multiplier",
        )
    },
    **{name: name for name in ("total_timesteps", "num_envs", "output_dir", "overwrite", "evaluate_in_background")},
    **{name: name for name in ("device", "vec", "kernels", "algo")},
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
FOLDER = ("output_dir",)


# -- messages -----------------------------------------------------------------------------------------------


def _hint(arguments: Sequence[str]) -> str:
    """How the command line sets what a message speaks of."""
    keys = [KEYS.get(name, f"algo.settings.{name}") for name in arguments]
    return f" (On the command line: {', '.join(f'{key}=...' for key in keys)})" if keys else ""


def explain(error: Exception) -> str:
    """One message: what was wrong, what exists, and which key to set."""
    if isinstance(error, DaftError):
        return f"{error}{_hint(error.arguments)}"
    return explain_hydra(error)


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


# -- checking -----------------------------------------------------------------------------------------------


def check_command(name: str, check: Callable[[Sequence[str]], None]) -> list[Path]:
    """Check what ``sys.argv`` would run, and let Hydra write into the run folder that it names.

    A sweep of transfers is refused if one of its jobs would be; a grid, whose cells go on without each other, if all.

    :param check: as in :func:`run_command`
    :return: the run folder and those above it that are not there yet
    :raises DaftError: something does not exist, or is impossible
    """
    let_hydra_parse()
    parser = get_args_parser()
    given = parser.parse_args()
    asked = [flag for flag in ("cfg", "info", "shell_completion", "run", "multirun") if getattr(given, flag)]
    if len(asked) > 1:
        parser.error(f"--{asked[0]} and --{asked[1].replace('_', '-')} do not go together.")
    if given.config_name or given.config_path:
        parser.error(
            "--config-name and --config-path would replace the configuration of the program. To add to it, write "
            "FOLDER/my/NAME.yaml with '# @package _global_' on top, and pass --config-dir FOLDER +my=NAME."
        )
    if given.shell_completion:
        parser.error(
            "--shell-completion: Hydra completes `python FILE`, not `python -m MODULE`. --help and `daft-rl list` show "
            "what there is."
        )
    if given.experimental_rerun:
        parser.error("--experimental-rerun would execute a pickled file. To go on with a run: resume=FOLDER.")
    if given.resolve and not (given.cfg or given.help):
        parser.error("--resolve goes with --cfg.")
    if given.help or given.hydra_help or given.cfg or given.info:
        return []
    overrides = [*given.overrides, *_searchpath(given.config_dir, given.overrides)]
    check(given.overrides)
    if name == "benchmark" or given.multirun:
        _check_sweep(name, overrides)
        return []
    settings, hydra_part = compose_job(name, overrides)
    refuse_hydra(name, hydra_part, overrides)
    refuse_unsaid(settings, overrides)
    check_plan(settings)
    folder = Path(settings.output_dir).absolute()
    if "${" in str(folder):
        raise ConfigError(f"Hydra cannot run in {folder}: it replaces ${{...}}. Name another folder.", arguments=FOLDER)
    if not any(item.startswith("hydra.run.dir=") for item in given.overrides):  # a default name holds the time
        place = sys.argv.index(given.overrides[0]) if given.overrides else len(sys.argv)  # flags may follow
        sys.argv.insert(place, f"hydra.run.dir={quoted(str(folder))}")
    return [path for path in (folder, *folder.parents) if not path.exists()]


def refuse_deleted_directory() -> None:
    """Refuse to start where Hydra cannot run."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise ConfigError("The working directory was deleted. Change to one that exists: cd FOLDER.") from None


def _searchpath(folder: str | None, overrides: Sequence[str]) -> list[str]:
    """What ``--config-dir`` means to Hydra."""
    if folder is None:
        return []
    if not Path(folder).is_dir():
        raise ConfigError(f"--config-dir {folder}: there is no such folder.")
    if any(item.startswith("hydra.searchpath=") for item in overrides):
        raise ConfigError("--config-dir and hydra.searchpath=...: name all folders in one of them.")
    return [f"hydra.searchpath=['file://{Path(folder).resolve()}']"]


def _check_sweep(name: str, overrides: Sequence[str]) -> None:
    """Check the first job of a sweep, and one job for each further value of each axis. See :func:`check_command`."""
    hydra_part: Any = OmegaConf.to_container(
        compose_parts(name, first_of_sweep(overrides, {}), with_hydra=True).hydra, resolve=False
    )
    refuse_hydra(name, hydra_part, overrides)
    params = hydra_part["sweeper"].get("params") or {}
    refuse_fields_beside_axis(overrides, params)
    axes = axes_of_sweep(overrides, params)
    if has_foreign_files(overrides):
        _check_hydra_of_jobs(name, axes, overrides)
    first = [values[0] for values in axes]
    refused = _refused(name, first, overrides)
    if name == "benchmark" and refused is None:
        return  # the other cells tell about themselves
    for index, values in enumerate(axes):
        for value in values[1:]:
            if refused is not None and name != "benchmark":
                break
            error = _refused(name, [*first[:index], value, *first[index + 1 :]], overrides)
            if error is None and name == "benchmark":
                return
            if error is not None and str(error) == str(refused):
                break  # it does not depend on this axis
            refused = refused or error
    if refused is not None:
        raise refused


def _check_hydra_of_jobs(name: str, axes: Sequence[Sequence[str]], overrides: Sequence[str]) -> None:
    """Each value of a sweep may name another file, with another part for Hydra."""
    first = [values[0] for values in axes]
    for index, value in ((index, value) for index, values in enumerate(axes) for value in values):
        try:
            cfg = compose_parts(name, [*first[:index], value, *first[index + 1 :]], with_hydra=True)
        except ConfigError:
            continue  # nothing runs that cannot be composed
        refuse_hydra(name, OmegaConf.to_container(cfg.hydra, resolve=False), overrides)


def _refused(name: str, job: Sequence[str], overrides: Sequence[str]) -> DaftError | None:
    """Why a job of a sweep cannot run, with the values that are its own."""
    try:
        settings, _ = compose_job(name, job)
        refuse_unsaid(settings, overrides)
        check_plan(settings)
    except DaftError as error:
        named = [item for item in job if item not in overrides and item.partition("=")[0] in str(error)]
        return type(error)(f"{' '.join(named)}: {explain(error)}" if named else explain(error))
    return None


def remove_unused(missing: Sequence[Path]) -> None:
    """Remove the folder of a run that ended before it learnt or measured anything, and those above made for it.

    A folder that is locked stays: another run has begun there meanwhile.

    :param missing: the run folder and what is above it, as far as it was not there before
    """
    if not missing or any(any(missing[0].glob(name)) for name in (EVENT_FILES, "results.json", LOCK_FILE)):
        return
    shutil.rmtree(missing[0], ignore_errors=True)
    with suppress(OSError):  # another run has begun there
        for above in missing[1:]:
            above.rmdir()


# -- running ------------------------------------------------------------------------------------------------


def run_command(
    name: str,
    run: Callable[[Any], Any],
    refuse: Callable[[dict[str, Any], DaftError], Any] | None = None,
    check: Callable[[Sequence[str]], None] = lambda overrides: None,
) -> None:
    """Run a command line. What can be wrong with it is found before Hydra makes a folder.

    :param name: of the configuration, ``transfer``, ``pretrain`` or ``benchmark``
    :param run: takes the settings
    :param refuse: takes a configuration that makes no settings, and the error; without it the program ends there
    :param check: takes the overrides, and raises if the program does not
    """
    missing: list[Path] = []

    def job(cfg: DictConfig) -> None:
        end_with_launcher()
        try:
            settings = read_settings(KINDS[name], cfg)
            refuse_unsaid(settings, HydraConfig.get().overrides.task)
        except DaftError as error:
            if refuse is None:
                stop(error)
            refuse(OmegaConf.to_container(cfg, resolve=True), error)  # type: ignore[arg-type]
            return
        here = Path.cwd()
        try:
            with interruption.before_requeueing():
                run(settings)
        except DaftError as error:
            stop(error)
        finally:
            os.chdir(here)  # an environment may have changed it, and the next job of a sweep has relative paths

    def stop(error: DaftError) -> NoReturn:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise type(error)(explain(error)) from error  # Hydra tells which job it was
        remove_unused(missing)
        _end(explain(error))

    store_defaults()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing; we print
    with one_message(), hints_on_warnings():
        if not sys.argv[1:] and name != "benchmark":  # whose preset is a grid that goes on
            _end(nothing_said(name))
        refuse_deleted_directory()  # before an archive is read: PyTorch's libraries would end the process
        # an archive needs PyTorch, which takes seconds; a message in a log should stand alone
        tell("Reading the settings.", sys.stderr.isatty() and not any(item.startswith("-") for item in sys.argv[1:]))
        sys.argv[1:] = expand(sys.argv[1:], name)
        missing += check_command(name, check)
        hydra.main(config_path="pkg://daft_rl.configs", config_name=name, version_base="1.3")(job)()


@contextmanager
def one_message() -> Iterator[None]:
    """End the program with one message if the block raises what is no fault of ours."""
    try:
        yield
    except (DaftError, HydraException, OmegaConfBaseException) as error:
        if interruption.raised:
            raise Interrupted from error
        _end(explain(error))
    except OSError as error:  # Hydra writes files of its own
        if refused_by_disk(error) is None:
            raise
        _end(f"{error}. Make space, or take another disk.")
    except BrokenExecutor:
        cause = "the system may have run out of memory; hydra.launcher.n_jobs=1 takes less"
        _end(f"A worker process was killed ({cause}). A grid goes on when it is started again.", RESUMABLE)
    except KeyboardInterrupt:
        _end("Interrupted.", 130)


def _end(message: str, code: int = 2) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)
