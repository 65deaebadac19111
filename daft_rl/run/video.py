"""Record videos of a policy, also on machines without a screen."""

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
from numpy.typing import NDArray

from daft_rl.errors import RenderError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stable_baselines3.common.base_class import BaseAlgorithm

Image = NDArray[np.uint8]
AnyEnv = gym.Env[Any, Any]

__all__ = ["offscreen_gl", "record"]

# Draws a lit sphere and fails if the image is black. It uses MuJoCo's own objects, because making an environment takes
# longer.
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
OFFSCREEN_BACKENDS = ("egl", "osmesa")
"""Backends that need no screen. MuJoCo and PyOpenGL use the same names for them."""
PROBE_SECONDS = 60.0
"""Time after which a backend that does not answer is given up."""


def _environment_variables(backend: str) -> dict[str, str]:
    """Environment variables that select a backend. PyOpenGL must use the same one as MuJoCo."""
    return {"MUJOCO_GL": backend} | ({"PYOPENGL_PLATFORM": backend} if backend in OFFSCREEN_BACKENDS else {})


def _probe(backend: str) -> str:
    """Draw an image with a backend, in a new process, because a backend that fails can break its process.

    :return: the problem in one line, or an empty text if the image was drawn
    """
    command = [sys.executable, "-c", PROBE, backend]
    try:
        done = subprocess.run(
            command,
            env=os.environ | _environment_variables(backend),
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {PROBE_SECONDS:.0f} s"
    if done.stdout.strip() == "seen":  # errors after this do not matter
        return ""
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(" ")]
    return (lines or [done.stdout.strip() or f"exit code {done.returncode}"])[-1][:120]


@cache
def _choose_backend(wanted: str | None, screen: bool) -> str:
    """Find a backend that can draw. The cache keeps the answer, because a probe takes a second.

    :param wanted: the only backend to try
    :param screen: whether there is one
    :raises RenderError: no backend can draw
    """
    candidates = [wanted] if wanted else ["glfw", *OFFSCREEN_BACKENDS] if screen else list(OFFSCREEN_BACKENDS)
    problems = {}
    for backend in candidates:
        problems[backend] = _probe(backend)
        if not problems[backend]:
            return backend
    tried = "; ".join(f"{backend}: {problem}" for backend, problem in problems.items())
    setting = f" MUJOCO_GL allows only '{wanted}': unset it to try others." if wanted else ""
    raise RenderError(
        f"No OpenGL backend can render images here. Tried {tried}.{setting} To install a backend: apt-get install "
        "libosmesa6 (any machine) or libegl1 (with the driver of a GPU)."
    )


def offscreen_gl() -> str:
    """Choose an OpenGL backend for MuJoCo, and set ``MUJOCO_GL`` and ``PYOPENGL_PLATFORM`` to it.

    The backend is ``MUJOCO_GL`` if that is set. Otherwise it is the first that can draw of GLFW (if there is a
    screen), EGL and OSMesa. Gymnasium's environments read the variable when they render for the first time.
    ``mujoco.Renderer`` reads it on import, so the module that reads it is loaded again.

    :return: ``"glfw"``, ``"egl"`` or ``"osmesa"``
    :raises RenderError: no backend can draw. The message, one line, says what was tried and what to install
    """
    screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    backend = _choose_backend(os.environ.get("MUJOCO_GL", "").strip().lower() or None, screen)
    os.environ.update(_environment_variables(backend))
    importlib.reload(importlib.import_module("mujoco.rendering.classic.gl_context"))
    return backend


def _uses_mujoco(env: AnyEnv) -> bool:
    """Whether MuJoCo draws the images. All our tasks use it; other environments may need no OpenGL."""
    modules = [cls.__module__ for cls in type(env.unwrapped).__mro__]
    return any("mujoco" in module or module.startswith("daft_rl.envs.") for module in modules)


def _frames(model: BaseAlgorithm, env: AnyEnv, steps: int, seed: int) -> Iterator[Image]:
    """Play, and render an image of shape ``(height, width, 3)`` before each step."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    from daft_rl.rollout.evaluation import _normalize

    venv = DummyVecEnv([lambda: env])  # seeds, resets and casts exactly as an evaluation does
    venv.seed(seed)
    observations = venv.reset()
    for _ in range(steps):
        yield _render(env)
        actions, _ = model.predict(_normalize(model.get_vec_normalize_env(), observations), deterministic=True)
        observations = venv.step(actions)[0]


def _render(env: AnyEnv) -> Image:
    """One image.

    :raises RenderError: the environment raised an error, whose first line is in the message
    """
    try:
        frame: Any = env.render()
    except Exception as error:  # simulators and drivers raise errors of any type
        reason = str(error).splitlines()[0] if str(error) else ""
        raise RenderError(f"{env} cannot render: {type(error).__name__}: {reason}") from error
    return np.asarray(frame)


def record(model: BaseAlgorithm, env: AnyEnv, path: Path, steps: int, seed: int) -> Path:
    """Write a video (H.264) of the deterministic policy, which plays as in
    :func:`~daft_rl.rollout.evaluation.evaluate`.

    The file appears when it is complete. An image is taken before each step. The format needs even sizes, so one row
    or column of pixels is cut off if a size is odd.

    :param model: its ``VecNormalize``, if it has one, normalizes observations and is not updated
    :param env: made with ``render_mode="rgb_array"``. It is closed afterwards
    :param path: of the file, ending in ``.mp4``
    :param steps: number of steps, and of images
    :param seed: of the first episode
    :return: ``path``
    :raises RenderError: this machine cannot render or write videos. The message, one line, says what to do
    """
    try:
        _check_requirements(env, steps)
        if _uses_mujoco(env):
            offscreen_gl()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.stem}-{os.getpid()}.mp4")
        try:
            _encode(partial, _frames(model, env, steps, seed), int(env.metadata.get("render_fps", 30)))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    finally:
        env.close()
    return path


def _check_requirements(env: AnyEnv, steps: int) -> None:
    """
    :raises RenderError: the environment renders no images, there are no steps, or a package is missing
    """
    if env.render_mode != "rgb_array":
        raise RenderError(f"{env} has render_mode={env.render_mode!r}: make it with render_mode='rgb_array'.")
    if steps < 1:
        raise RenderError(f"A video needs at least one step, got steps={steps}.")
    if find_spec("imageio") is None or find_spec("imageio_ffmpeg") is None:
        raise RenderError("Videos need imageio and imageio-ffmpeg: pip install imageio imageio-ffmpeg.")


def _encode(path: Path, frames: Iterator[Image], fps: int) -> None:
    """Encode images as they are rendered."""
    import imageio.v2 as imageio

    first = next(frames)  # most errors happen here, before ffmpeg is started
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2
    options: dict[str, Any] = {"codec": "libx264", "pixelformat": "yuv420p", "macro_block_size": 2}
    writer: Any = imageio.get_writer(path, format="FFMPEG", mode="I", fps=fps, ffmpeg_log_level="error", **options)  # type: ignore[arg-type]
    with closing(writer) as video:  # the writer's own `with` leaves ffmpeg running after an error
        for frame in chain([first], frames):
            video.append_data(frame[:height, :width])
