"""Videos of a policy, also on machines without a screen."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from contextlib import closing
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from daft_rl.errors import RenderError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stable_baselines3.common.base_class import BaseAlgorithm

__all__ = ["offscreen_gl", "record"]

# Draws a lit sphere and fails unless it can be seen. MuJoCo's own objects: an environment would take longer.
PROBE = """
import importlib, sys, mujoco, numpy as np
context = importlib.import_module("mujoco." + sys.argv[1]).GLContext(64, 64)
context.make_current()
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light pos="0 0 3"/><geom size="1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, renderer)
scene, camera = mujoco.MjvScene(model, 10), mujoco.MjvCamera()
camera.distance = 4
mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
image = np.zeros((64, 64, 3), np.uint8)
mujoco.mjr_render(mujoco.MjrRect(0, 0, 64, 64), scene, renderer)
mujoco.mjr_readPixels(image, None, mujoco.MjrRect(0, 0, 64, 64), renderer)
print("seen" if image.any() else "the image is black")
"""
PLATFORMS = ("egl", "osmesa")  # what PyOpenGL calls them, too
TIMEOUT = 60.0


def _settings(backend: str) -> dict[str, str]:
    """The environment variables of a backend. PyOpenGL's must agree with MuJoCo's."""
    return {"MUJOCO_GL": backend} | ({"PYOPENGL_PLATFORM": backend} if backend in PLATFORMS else {})


def _probe(backend: str) -> str:
    """Draw with a backend in a process of its own: a backend that fails spoils the process that tried it.

    :return: what went wrong, in a line; empty if nothing did
    """
    command = [sys.executable, "-c", PROBE, backend]
    try:
        done = subprocess.run(
            command, env=os.environ | _settings(backend), capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {TIMEOUT:.0f} s"
    if done.stdout.strip() == "seen":  # errors while it ends do not matter
        return ""
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(" ")]
    return (lines or [done.stdout.strip() or f"exit code {done.returncode}"])[-1][:120]


@cache
def _choose(wanted: str | None, screen: bool) -> str:
    """:func:`offscreen_gl`, once for the same surroundings."""
    candidates = [wanted] if wanted else ["glfw", *PLATFORMS] if screen else list(PLATFORMS)
    problems = {}
    for backend in candidates:
        problems[backend] = _probe(backend)
        if not problems[backend]:
            return backend
    tried = "; ".join(f"{backend}: {problem}" for backend, problem in problems.items())
    setting = " as MUJOCO_GL says (unset it to try others)" if wanted else ""
    raise RenderError(
        f"No OpenGL to render images with{setting}. Tried {tried}. To install one: "
        "apt-get install libosmesa6 (any machine) or libegl1 (with a GPU's driver)."
    )


def offscreen_gl() -> str:
    """Choose how MuJoCo renders images here, and set ``MUJOCO_GL`` and ``PYOPENGL_PLATFORM`` accordingly.

    ``MUJOCO_GL`` if it is set; else GLFW where there is a screen, EGL, OSMesa, whichever first draws something.
    Gymnasium's environments read the variable when they render for the first time. ``mujoco.Renderer`` read it when
    it was imported, so it is made to read it again.

    :return: ``"glfw"``, ``"egl"`` or ``"osmesa"``
    :raises RenderError: none works; one line that says what was tried and what to install
    """
    screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    backend = _choose(os.environ.get("MUJOCO_GL", "").strip().lower() or None, screen)
    os.environ.update(_settings(backend))
    importlib.reload(importlib.import_module("mujoco.rendering.classic.gl_context"))
    return backend


def _uses_mujoco(env: gym.Env) -> bool:
    """Whether MuJoCo draws: all our tasks use it, others may need no OpenGL."""
    modules = [cls.__module__ for cls in type(env.unwrapped).__mro__]
    return any("mujoco" in module or module.startswith("daft_rl.envs.") for module in modules)


def _frames(model: BaseAlgorithm, env: gym.Env, steps: int, seed: int) -> Iterator[np.ndarray]:
    """What the policy sees before each of its steps, as images of shape ``(height, width, 3)``."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    from daft_rl.rollout.evaluation import _normalize

    venv = DummyVecEnv([lambda: env])  # seeds, resets and casts as in an evaluation
    venv.seed(seed)
    observations = venv.reset()
    for _ in range(steps):
        try:
            frame: Any = env.render()
        except Exception as error:  # simulators and drivers raise what they like
            reason = str(error).splitlines()[0] if str(error) else ""
            raise RenderError(f"{env} cannot render: {type(error).__name__}: {reason}") from error
        yield np.asarray(frame)
        actions, _ = model.predict(_normalize(model.get_vec_normalize_env(), observations), deterministic=True)
        observations = venv.step(actions)[0]


def record(model: BaseAlgorithm, env: gym.Env, path: Path, steps: int, seed: int) -> Path:
    """Write a video (H.264) of the deterministic policy; it plays as in :func:`~daft_rl.rollout.evaluation.evaluate`.

    The file appears when it is complete. An image is taken before each step; one row or column of pixels is cut
    where the size is odd, which the format cannot hold.

    :param model: its ``VecNormalize``, if it has one, normalizes observations and is not updated
    :param env: made with ``render_mode="rgb_array"``; it is closed
    :param path: where to; ends in ``.mp4``
    :param steps: how many steps, and images
    :param seed: of the first episode
    :return: ``path``
    :raises RenderError: nothing here can render or write videos; one line that says what to do
    """
    try:
        if env.render_mode != "rgb_array":
            raise RenderError(f"{env} has render_mode={env.render_mode!r}: make it with render_mode='rgb_array'.")
        if steps < 1:
            raise RenderError(f"A video needs at least one step, got steps={steps}.")
        if find_spec("imageio") is None or find_spec("imageio_ffmpeg") is None:
            raise RenderError("Videos need imageio and imageio-ffmpeg: pip install imageio imageio-ffmpeg.")
        if _uses_mujoco(env):
            offscreen_gl()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.stem}-{os.getpid()}.mp4")
        try:
            _write(partial, _frames(model, env, steps, seed), int(env.metadata.get("render_fps", 30)))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    finally:
        env.close()
    return path


def _write(path: Path, frames: Iterator[np.ndarray], fps: int) -> None:
    """Encode images as they come."""
    import imageio.v2 as imageio

    first = next(frames)  # before ffmpeg is started: the most likely to fail
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2
    options: dict[str, Any] = {"codec": "libx264", "pixelformat": "yuv420p", "macro_block_size": 2}
    writer: Any = imageio.get_writer(path, format="FFMPEG", mode="I", fps=fps, ffmpeg_log_level="error", **options)  # type: ignore[arg-type]
    with closing(writer) as video:  # its own `with` would leave ffmpeg running after an error
        for frame in chain([first], frames):
            video.append_data(frame[:height, :width])
