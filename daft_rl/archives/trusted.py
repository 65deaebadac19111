"""Archives read with SB3's own loader, which executes code from the file: the user trusts whoever made it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.archives.build import Request, choose_class, prepare_env
from daft_rl.archives.checks import check_tensor, wrap_errors
from daft_rl.archives.container import read_archive, read_attributes, refuse_jax
from daft_rl.archives.hyperparameters import check_hyperparameters
from daft_rl.archives.space_checks import check_space
from daft_rl.archives.text import read_space
from daft_rl.errors import AgentError, DaftWarning

__all__ = ["load_trusted"]

RENAMED = {"gym": "gymnasium", "numpy._core": "numpy.core", "numpy.core": "numpy._core"}
"""Package that a pickle may name -> where its modules are if they cannot be imported by that name."""


def load_trusted(path: Path, request: Request) -> BaseAlgorithm:
    """The agent as SB3's ``load`` gives it.

    :param path: the archive
    :param request: what the user asks for
    :raises AgentError: SB3 cannot load it, or it lacks what it would need; the message says what
    """
    if request.activation is not None or request.correspondence is not None:
        raise AgentError(
            "activation=... and correspondence=... need trust=False: SB3's own loader has neither.",
            arguments=("trust",),
        )
    attributes = _attributes(path, request.cls is not None)
    refuse_jax(attributes, path)
    cls = request.cls or choose_class(read_archive(path).algorithm, None, path)
    check_hyperparameters(cls, request.overrides)
    venv = prepare_env(request, path, None)
    venv = None if venv is None else cls._wrap_env(venv)
    replaced = {} if venv is None else _spaces_that_fit(attributes, venv, path)
    replaced |= {} if request.policy_kwargs is None else {"policy_kwargs": dict(request.policy_kwargs)}
    warnings.warn(
        DaftWarning(
            f"trust=True: {path} is unpickled, which executes whatever code it contains.", arguments=("trust",)
        ),
        stacklevel=3,
    )
    with wrap_errors(f"{path} cannot be loaded by SB3"), _renamed_modules(), _missing_modules(path):
        model = cls.load(path, env=venv, device=request.device, custom_objects=replaced, **request.overrides)
        for name, tensor in model.policy.state_dict().items():
            check_tensor(f"{path}: {name}", tensor.cpu())
    return model


def _attributes(path: Path, optional: bool) -> dict[str, Any]:
    """The attributes of the algorithm object, for which our own reader may have refused the file.

    :param optional: whether nothing depends on them
    :raises AgentError: they cannot be read
    """
    try:
        return read_attributes(path)
    except AgentError as error:
        if optional:
            return {}
        raise AgentError(
            f"{error} With algo=..., trust=True does not have to read the file beforehand.", arguments=("algo",)
        ) from error


def _spaces_that_fit(attributes: dict[str, Any], venv: VecEnv, path: Path) -> dict[str, Any]:
    """The environment's spaces, which SB3 would refuse if a bound of an observation differed.

    :raises AgentError: a policy for the archive's space would compute something else on the environment's
    """
    fitting: dict[str, Any] = {}
    for what in ("observation", "action"):
        stored, actual = read_space(attributes.get(f"{what}_space")), getattr(venv, f"{what}_space")
        if not isinstance(stored, str):  # else SB3 may be able to read it
            check_space(str(path), what, stored, actual)
            fitting[f"{what}_space"] = actual
    return fitting


@contextmanager
def _missing_modules(path: Path) -> Iterator[None]:
    """
    :raises AgentError: the pickles in the file name a package that is not installed
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise AgentError(
            f"{path} holds objects of '{error.name}', which is not installed here. Install the package '{package}' "
            "that its maker used, or load the file with trust=False, which needs no such objects.",
            arguments=("trust",),
        ) from error


@contextmanager
def _renamed_modules() -> Iterator[None]:
    """Let pickles of the old gym, or of another numpy, find their classes in what is imported here."""
    there = dict(sys.modules)
    added = {}
    for old, new in RENAMED.items():
        for name in (name for name in there if name == new or name.startswith(f"{new}.")):
            renamed = old + name.removeprefix(new)
            if not _is_importable(renamed):
                added[renamed] = there[name]
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]  # nobody else should take gymnasium for gym


def _is_importable(name: str) -> bool:
    try:
        return name in sys.modules or find_spec(name) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False
