"""Safety-Gymnasium 1.0.0 beside gymnasium 1.x: importing it, and resets in milliseconds. No installed file is edited.

Parts of the package import names that newer versions of gymnasium and NumPy no longer have. No single environment
needs those parts: they are replaced by empty modules before the package is imported.
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

from daft_rl.envs.installed import check_installed

__all__ = ["Blueprint", "blueprints", "load_package"]

PACKAGE = "safety_gymnasium"
SKY = {
    "@type": "skybox",
    "@builtin": "gradient",
    "@rgb1": "0.1 0.1 0.2",
    "@rgb2": "0 0 0",
    "@width": "16",
    "@height": "96",
}
"""Instead of six pictures that are decoded at every reset. Only pictures show the sky."""


@dataclass(frozen=True)
class Blueprint:
    """How the package makes one of its environments."""

    entry_point: str
    max_episode_steps: int
    kwargs: dict[str, Any]


class _Hashable(np.ndarray):
    """Python 3.11 refuses dataclass defaults that cannot be hashed."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class _CachedYaml(ModuleType):
    """What the package uses of PyYAML, each file parsed once."""

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
    """Leaves out the package's images, whose renderer needs an older Gymnasium, and Race, whose files it lacks."""
    if not re.search(r"Vision|Race\d", id):
        _BLUEPRINTS[id] = Blueprint(entry_point, max_episode_steps, kwargs)


def _stub(name: str, **content: Any) -> None:
    """An empty module, with a package's path so that nothing below it is looked for elsewhere."""
    module = ModuleType(name)
    module.__dict__.update(content, __path__=[])
    sys.modules[name] = module


def _load_colors(folder: Path) -> None:
    """The package's colours, its only part that must be changed before others are imported."""
    name = f"{PACKAGE}.assets.color"
    spec = spec_from_file_location(name, folder / "assets" / "color.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    colors = vars(module)["COLOR"]
    colors.update({key: value.view(_Hashable) for key, value in colors.items()})
    sys.modules[name] = module


@cache
def load_package() -> ModuleType:
    """Import Safety-Gymnasium.

    :return: the module ``safety_gymnasium``
    :raises TaskError: it is not installed
    """
    check_installed(PACKAGE)
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    if PACKAGE not in sys.modules:
        _stub(f"{PACKAGE}.vector")
        _stub(f"{PACKAGE}.wrappers")
        _stub(f"{PACKAGE}.utils.registration", make=None, register=_register)
        _stub(f"{PACKAGE}.tasks.safe_multi_agent")
        _stub(f"{PACKAGE}.tasks.safe_multi_agent.safe_mujoco_multi", make_ma=None)
        _load_colors(Path(spec.origin).parent)
        _without_registering(lambda: import_module(PACKAGE))
    package = import_module(PACKAGE)
    for module in (f"{PACKAGE}.world", f"{PACKAGE}.bases.base_task"):
        import_module(module).yaml = _CachedYaml("yaml")  # type: ignore[attr-defined]
    underlying: Any = import_module(f"{PACKAGE}.bases.underlying")
    underlying.World = _editable(underlying.World)
    return package


def _editable(world: type) -> type:
    """The package's world, whose model may be edited each time it is compiled: at every reset."""

    class World(world):  # type: ignore[misc]
        def build(self) -> None:
            super().build()
            edit = getattr(self._agent, "edit_model", None)
            if edit is not None:
                model = self.engine.model
                edit(model)
                data = mujoco.MjData(model)
                mujoco.mj_forward(model, data)
                self.engine.update(model, data)

    return World


def _without_registering(load: Callable[[], Any]) -> None:
    """The package also registers variants with gymnasium that its stubbed parts would have to make: leave them out."""
    import gymnasium as gym

    before = dict(gym.registry)
    load()
    gym.registry.clear()
    gym.registry.update(before)


def blueprints() -> dict[str, Blueprint]:
    """The package's single-agent environments by id, for instance ``SafetyPointGoal1-v0``."""
    load_package()
    return _BLUEPRINTS
