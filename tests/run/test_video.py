"""A video shows what an evaluation plays, and a machine that cannot render says what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl.envs import make
from daft_rl.errors import RenderError
from daft_rl.rollout.evaluation import evaluate
from daft_rl.run import video
from daft_rl.run.video import offscreen_gl, record
from tests.conftest import PointMass

imageio = pytest.importorskip("imageio.v3")
pytest.importorskip("imageio_ffmpeg")

NAMES = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY", "PYTHONPATH")


@pytest.fixture
def _own_environment() -> Iterator[None]:
    """The test may change environment variables, and no earlier choice of a backend is cached."""
    before = {name: os.environ.pop(name) for name in NAMES if name in os.environ}
    video._choose_backend.cache_clear()
    yield
    for name in NAMES:
        os.environ.pop(name, None)
    os.environ.update(before)
    video._choose_backend.cache_clear()


class Drawn(PointMass):
    """Draws an odd number of pixels without OpenGL, and fails after a number of frames."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}
    render_mode = "rgb_array"

    def __init__(self, frames: int = 1000) -> None:
        super().__init__()
        self.frames, self.closed = frames, False

    def render(self) -> Any:
        self.frames -= 1
        if self.frames < 0:
            raise OSError("the screen is gone\nsecond line")
        return np.full((65, 47, 3), 40 + 10 * self.steps, np.uint8)

    def close(self) -> None:
        self.closed = True


def agent(env: gym.Env[Any, Any], normalized: bool = False) -> PPO:
    venv: Any = DummyVecEnv([lambda: env])
    if normalized:
        venv = VecNormalize(venv)
        venv.obs_rms.mean[:] = 0.7
        venv.obs_rms.var[:] = 3.0
    return PPO("MlpPolicy", venv, n_steps=8, batch_size=8, seed=0, device="cpu")


def spy(model: PPO, monkeypatch: Any) -> list[NDArray[Any]]:
    """A list that collects the actions that a model chooses from now on."""
    seen: list[NDArray[Any]] = []
    predict = model.predict

    def listen(*args: Any, **kwargs: Any) -> Any:
        result = predict(*args, **kwargs)
        seen.append(result[0].copy())
        return result

    monkeypatch.setattr(model, "predict", listen)
    return seen


@pytest.mark.parametrize("normalized", [False, True])
def test_a_video_shows_what_an_evaluation_plays(normalized: bool, tmp_path: Path, monkeypatch: Any) -> None:
    model, env = agent(PointMass(), normalized), Drawn()
    actions = spy(model, monkeypatch)
    path = record(model, env, tmp_path / "new" / "video.mp4", steps=30, seed=5)
    assert path == tmp_path / "new" / "video.mp4"
    assert [file.name for file in path.parent.iterdir()] == ["video.mp4"]
    assert env.closed
    frames = imageio.imread(path)
    assert frames.shape == (30, 64, 46, 3)
    assert imageio.immeta(path)["fps"] == 12
    brightness = frames.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(
        brightness, [40 + 10 * (t % 20) for t in range(30)], atol=4
    )  # starts again with each episode
    recorded = [action.tobytes() for action in actions]
    actions.clear()
    evaluate(model, DummyVecEnv([PointMass]), episodes=1, seed=5)
    assert recorded[:20] == [action.tobytes() for action in actions]


def test_an_unfinished_video_is_removed(tmp_path: Path) -> None:
    before = tmp_path / "video.mp4"
    before.write_bytes(b"an older one")
    env = Drawn(frames=4)
    with pytest.raises(RenderError, match=r"cannot render: OSError: the screen is gone$"):
        record(agent(PointMass()), env, before, steps=10, seed=0)
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]
    assert before.read_bytes() == b"an older one"
    assert env.closed


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RenderError, match="make it with render_mode='rgb_array'"):
        record(agent(PointMass()), PointMass(), tmp_path / "video.mp4", steps=10, seed=0)
    with pytest.raises(RenderError, match="at least one step"):
        record(agent(PointMass()), Drawn(), tmp_path / "video.mp4", steps=0, seed=0)


@pytest.mark.usefixtures("_own_environment")
def test_a_video_of_ant_has_moving_images(tmp_path: Path) -> None:
    try:
        backend = offscreen_gl()
    except RenderError as error:
        pytest.skip(str(error))
    assert os.environ["MUJOCO_GL"] == backend
    shift = {"gravity": 0.5}
    model = agent(make("Ant"))
    path = record(
        model, TimeLimit(make("Ant", shift=shift, render_mode="rgb_array"), 8), tmp_path / "a.mp4", 10, seed=1
    )
    frames = imageio.imread(path).astype(float)
    assert frames.shape == (10, 480, 480, 3)
    assert imageio.immeta(path)["fps"] == 20
    assert all(frame.std() > 10 for frame in frames)
    assert all(np.abs(one - other).max() > 30 for one, other in pairwise(frames))


@pytest.mark.usefixtures("_own_environment")
@pytest.mark.parametrize("reason", ["PyOpenGL is missing", "MUJOCO_GL=nonsense"])
def test_without_opengl_the_error_says_what_to_do(reason: str, tmp_path: Path) -> None:
    """Each backend is tried in a new process, which sees these environment variables."""
    env = make("Ant", render_mode="rgb_array")
    if "=" in reason:
        os.environ["MUJOCO_GL"] = "nonsense"
    else:
        (tmp_path / "OpenGL.py").write_text("raise ImportError('there is no PyOpenGL here')")
        os.environ["PYTHONPATH"] = str(tmp_path)
    before = dict(os.environ)
    with pytest.raises(RenderError) as caught:
        record(agent(PointMass()), env, tmp_path / "video.mp4", steps=10, seed=0)
    message = str(caught.value)
    assert "\n" not in message
    assert "apt-get install libosmesa6" in message
    if "=" in reason:
        assert "MUJOCO_GL allows only 'nonsense'" in message
        assert "nonsense: RuntimeError: invalid value" in message
    else:
        assert "Tried egl: ImportError: there is no PyOpenGL here; osmesa: ImportError: there is no" in message
    assert not (tmp_path / "video.mp4").exists()
    assert dict(os.environ) == before
