"""Import Safety-Gymnasium 1.0.0 next to Gymnasium 1.x, and make its resets fast. No installed file is edited.

Parts of the package import names that newer versions of Gymnasium and NumPy no longer have. Single-agent environments
do not need those parts: empty modules replace them before the package is imported.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import mujoco
import numpy as np
import yaml

from daft_rl.envs.dependencies import require_installed
from daft_rl.envs.safety.newer_numpy import accept_newer_numpy
from daft_rl.errors import TaskError
from daft_rl.validation import unknown_name

__all__ = ["Blueprint", "blueprints", "get_blueprint", "load_package"]

PACKAGE = "safety_gymnasium"
SKY = {
    "@type": "skybox",
    "@builtin": "gradient",
    "@rgb1": "0.1 0.1 0.2",
    "@rgb2": "0 0 0",
    "@width": "16",
    "@height": "96",
}
"""Replaces six pictures that each reset would decode. Only rendered images show the sky."""


@dataclass(frozen=True)
class Blueprint:
    """How the package makes one of its environments."""

    entry_point: str
    max_episode_steps: int
    kwargs: dict[str, Any]


class _HashableArray(np.ndarray):  # type: ignore[type-arg]
    """An array that Python 3.11 accepts as the default of a dataclass field: it refuses what cannot be hashed."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class _CachedYaml(ModuleType):
    """The part of PyYAML that the package uses; parses each file once."""

    FullLoader = yaml.FullLoader

    @staticmethod
    def load(stream: Any, Loader: Any) -> Any:  # noqa: N803
        parsed = copy.deepcopy(_parse(stream.name, Loader))
        if "skybox" in parsed.get("textures", {}):
            parsed["textures"]["skybox"] = SKY
        return parsed


@cache
def _parse(path: str, loader: Any) -> Any:
    return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=loader)


_BLUEPRINTS: dict[str, Blueprint] = {}


def _register(id: str, entry_point: str, kwargs: dict[str, Any], max_episode_steps: int, **_: Any) -> None:
    """Record an environment, unless it renders images (needs an older Gymnasium) or is a Race (files are missing)."""
    if not re.search(r"Vision|Race\d", id):
        _BLUEPRINTS[id] = Blueprint(entry_point, max_episode_steps, kwargs)


def _replace_by_empty_module(name: str, **content: Any) -> None:
    """Put an empty module in place. It has a ``__path__``, so that Python does not search elsewhere for submodules."""
    module = ModuleType(name)
    module.__dict__.update(content, __path__=[])
    sys.modules[name] = module


def _load_colors(folder: Path) -> None:
    """Load the package's colours first: other parts use them as defaults of dataclass fields."""
    name = f"{PACKAGE}.assets.color"
    spec = spec_from_file_location(name, folder / "assets" / "color.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    colors = vars(module)["COLOR"]
    colors.update({key: value.view(_HashableArray) for key, value in colors.items()})
    sys.modules[name] = module


@cache
def load_package() -> ModuleType:
    """Import Safety-Gymnasium.

    :return: the module ``safety_gymnasium``
    :raises TaskError: it is not installed
    """
    require_installed(PACKAGE)
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    if PACKAGE not in sys.modules:
        _replace_by_empty_module(f"{PACKAGE}.vector")
        _replace_by_empty_module(f"{PACKAGE}.wrappers")
        _replace_by_empty_module(f"{PACKAGE}.utils.registration", make=None, register=_register)
        _replace_by_empty_module(f"{PACKAGE}.tasks.safe_multi_agent")
        _replace_by_empty_module(f"{PACKAGE}.tasks.safe_multi_agent.safe_mujoco_multi", make_ma=None)
        _load_colors(Path(spec.origin).parent)
        _without_registering(lambda: import_module(PACKAGE))
    package = import_module(PACKAGE)
    for module in (f"{PACKAGE}.world", f"{PACKAGE}.bases.base_task"):
        import_module(module).yaml = _CachedYaml("yaml")  # type: ignore[attr-defined]
    underlying: Any = import_module(f"{PACKAGE}.bases.underlying")
    underlying.World = _with_model_changes(underlying.World)
    accept_newer_numpy(import_module(f"{PACKAGE}.bases.base_agent"))
    return package


def _with_model_changes(world: type) -> type:
    """A subclass of the package's world that applies the agent's ``change_model`` to each model it compiles."""

    class World(world):  # type: ignore[misc]
        def build(self) -> None:
            super().build()
            change_model = getattr(self._agent, "change_model", None)
            if change_model is not None:
                model = self.engine.model
                change_model(model)
                data = mujoco.MjData(model)
                mujoco.mj_forward(model, data)
                self.engine.update(model, data)

    return World


def _without_registering(import_package: Callable[[], Any]) -> None:
    """Import the package and undo its registrations: some of them need the parts that are replaced."""
    import gymnasium as gym

    before = dict(gym.registry)
    import_package()
    gym.registry.clear()
    gym.registry.update(before)


def blueprints() -> dict[str, Blueprint]:
    """The package's single-agent environments by id, for instance ``SafetyPointGoal1-v0``."""
    load_package()
    return _BLUEPRINTS


def get_blueprint(id: str) -> Blueprint:
    """How the package makes the environment with this id.

    :param id: for instance ``SafetyPointGoal1-v0``
    :raises TaskError: the package is not installed, or has no such environment
    """
    existing = blueprints()
    if id not in existing:
        raise TaskError(unknown_name("Safety-Gymnasium task", id, sorted(existing)))
    return existing[id]
