"""Worker processes return what ``DummyVecEnv`` returns, say what went wrong in them, and leave nothing behind."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, RecordEpisodeStatistics, TimeLimit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import daft_rl.envs.batch.workers
from daft_rl.envs import make, make_vec
from daft_rl.envs.batch.workers import WorkerVecEnv
from daft_rl.errors import TaskError, WorkerError

# As if defined in a script: workers need not import this module, and with it PyTorch.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

Factory = Callable[[], gym.Env]
DEADLINE = 30.0
SPACES: dict[str, spaces.Space] = {
    "box": spaces.Box(-3.0, 3.0, (4,), np.float64),
    "image": spaces.Box(0, 255, (3, 5, 1), np.uint8),
    "discrete": spaces.Discrete(7, start=2),
    "dict": spaces.Dict({"z": spaces.Box(-1, 1, (2, 3)), "a": spaces.Discrete(3), "flags": spaces.MultiBinary(4)}),
    "tuple": spaces.Tuple((spaces.Box(-1, 1, (2,), np.float64), spaces.Discrete(5))),
}


class Toy(gym.Env):
    """Random numbers from its seed and the actions; ``fault`` says where it fails, and how."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}

    def __init__(self, space: str = "box", discrete: bool = False, fault: str = "", render: bool = False) -> None:
        if fault == "constructor":
            raise TaskError("Unknown task 'Toi'. Did you mean 'Toy'?")
        self.observation_space = SPACES[space]
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-1.0, 1.0, (2,))
        self.fault, self.render_mode = fault, "rgb_array" if render else None
        self.lock = threading.Lock()  # cannot be pickled

    def _observe(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(1 << 30)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if self.fault == "reset":
            raise ValueError("no reset today")
        return self._observe(), {"seed": seed, "options": options, "drawn": self.np_random.random()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.fail()
        terminated, truncated = self.np_random.random(2) < 0.15
        reward = float(np.sum(action)) + self.np_random.normal()
        info = {"action": action, "nested": {"x": [self.np_random.random(3)]}, "scalar": np.float32(reward)}
        return self._observe(), reward, bool(terminated), bool(truncated), info

    def fail(self, how: str | None = None) -> None:
        how = how or self.fault
        if how == "step":
            raise ZeroDivisionError("no step today")
        if how == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "exit":
            sys.exit(5)
        if how == "_exit":
            os._exit(3)
        if how == "stuck":
            threading.Event().wait()

    def render(self) -> Any:
        return np.full((4, 6, 3), self.np_random.integers(256), np.uint8)

    def process(self) -> dict[str, Any]:
        """What the process is like."""
        return {
            "pid": os.getpid(),
            "threads": len(os.listdir("/proc/self/task")),  # noqa: PTH208
            "blas": [os.environ[f"{name}_NUM_THREADS"] for name in ("OMP", "OPENBLAS", "MKL")],
            "torch": "torch" in sys.modules,
        }


def toy(*args: Any, **kwargs: Any) -> Factory:
    return lambda: TimeLimit(Toy(*args, **kwargs), 9)


def bits(value: Any) -> Any:
    """Types, dtypes, shapes and bytes of nested data."""
    if isinstance(value, dict):
        return type(value), [(key, bits(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [bits(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    return type(value), pickle.dumps(value)


def actions_for(venv: VecEnv, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if isinstance(venv.action_space, spaces.Discrete):
        return rng.integers(0, 3, venv.num_envs)
    return rng.uniform(-1, 1, (venv.num_envs, 2)).astype(np.float32)


def alive(pid: int) -> bool:
    """Whether a process runs; an orphan that nobody has collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def await_end(pids: list[int]) -> None:
    """Poll until none of the processes runs."""
    deadline = time.monotonic() + DEADLINE
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, f"still alive: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.02)


def children() -> list[int]:
    """Worker processes that this one started, ended ones not yet collected among them."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            if b"daft_rl.envs.batch.worker" in Path(f"/proc/{pid}/cmdline").read_bytes() or not alive(pid):
                found.append(pid)
    return found


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    before = set(children())
    yield
    gc.collect()
    assert set(children()) <= before


@pytest.fixture
def build() -> Iterator[Callable[..., WorkerVecEnv]]:
    """Makes batches, and closes them at the end."""
    made = []

    def build(*args: Any) -> WorkerVecEnv:
        made.append(WorkerVecEnv(*args))
        return made[-1]

    yield build
    for venv in made:
        venv.close()


# The numbers


def test_every_space(build: Any) -> None:
    for space in SPACES:
        fns = [toy(space, discrete=space in ("image", "dict"))] * 3
        dummy, workers = DummyVecEnv(fns), build(fns, 1)
        assert (workers.observation_space, workers.action_space) == (dummy.observation_space, dummy.action_space)
        assert dummy.seed(4) == workers.seed(4)
        assert bits(dummy.reset()) == bits(workers.reset())
        ended = 0
        for t in range(25):
            expected, actual = (venv.step(actions_for(dummy, t)) for venv in (dummy, workers))
            assert bits(expected) == bits(actual)
            assert bits(dummy.reset_infos) == bits(workers.reset_infos)
            ended += expected[2].sum()
        assert ended > 3
        workers.close()


def seed_both(venv: VecEnv, seed: int) -> Any:
    return venv.seed(seed)


def reset_all(venv: VecEnv, seed: int) -> Any:
    return venv.reset()


def reset_with_options(venv: VecEnv, seed: int) -> Any:
    venv.set_options([{"row": seed}, {}, {"row": 3}] if seed % 2 else {"all": seed})
    return venv.reset(), venv._options, venv._seeds


def step(venv: VecEnv, seed: int) -> Any:
    return venv.step(actions_for(venv, seed)), venv.reset_infos


def method_amid_a_step(venv: VecEnv, seed: int) -> Any:
    venv.step_async(actions_for(venv, seed))
    return venv.step_wait(), venv.env_method("reset", seed=seed, indices=[seed % 3])


def set_and_get(venv: VecEnv, seed: int) -> Any:
    venv.set_attr("mark", seed, indices=[2, 0])
    return venv.get_attr("mark", indices=(0, 2, 2, -1)), venv.get_attr("spec", 1), venv.has_attr("mark")


def image(venv: VecEnv, seed: int) -> Any:
    return venv.render(), venv.get_images()


@pytest.fixture(scope="module")
def twins() -> Iterator[tuple[VecEnv, VecEnv]]:
    fns = [
        toy("dict", render=True),
        lambda: RecordEpisodeStatistics(toy("dict", render=True)()),
        toy("dict", render=True),
    ]
    pair = DummyVecEnv(fns), WorkerVecEnv(fns, 2)
    for venv in pair:
        venv.seed(0)
        venv.reset()
    yield pair
    pair[1].close()


OPERATIONS = [seed_both, reset_all, reset_with_options, step, step, step, method_amid_a_step, set_and_get, image]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 9)), min_size=3, max_size=12))
def test_any_order_of_operations(twins: tuple[VecEnv, VecEnv], plan: list[tuple[Callable[..., Any], int]]) -> None:
    def strip(value: Any) -> Any:  # RecordEpisodeStatistics measures time
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key != "t"}
        return type(value)(map(strip, value)) if isinstance(value, (list, tuple)) else value

    for operation, seed in plan:
        expected, actual = (strip(operation(venv, seed)) for venv in twins)
        assert bits(expected) == bits(actual)


def test_what_the_environments_are(twins: tuple[VecEnv, VecEnv]) -> None:
    for venv in twins:
        assert venv.render_mode == "rgb_array"
        assert venv.metadata == Toy.metadata
        assert venv.env_is_wrapped(TimeLimit) == [True] * 3
        assert venv.env_is_wrapped(RecordEpisodeStatistics, [0, 1]) == [False, True]
        assert venv.env_is_wrapped(gym.Wrapper, 0) == [True]
        assert venv.env_is_wrapped(Monitor) == venv.env_is_wrapped(OrderEnforcing) == [False] * 3
        assert venv.has_attr("lock")
        assert not venv.has_attr("nope")
        with pytest.raises(AttributeError, match="nope"):
            venv.get_attr("nope")
        with pytest.raises(AttributeError, match="nope"):
            venv.env_method("nope")
    assert not any(process["torch"] for process in twins[1].env_method("process"))


def test_no_images_without_render_mode(build: Any) -> None:
    with pytest.warns(UserWarning, match="rgb_array"):
        assert build([toy()], 1).get_images() == [None]


def test_what_was_returned_stays(build: Any) -> None:
    venv = build([toy()] * 2, 1)
    kept = [venv.reset()]
    before = bits(kept)
    for t in range(5):
        venv.step(actions_for(venv, t))
    assert bits(kept) == before
    assert kept[0].flags.owndata
    assert kept[0].flags.writeable


def test_real_tasks_without_pytorch(build: Any) -> None:
    class Spy(gym.Wrapper):
        def process(self) -> dict[str, Any]:
            return Toy.process(self)  # type: ignore[arg-type]

    dummy = make_vec("HalfCheetah-shifted", num_envs=3, seed=5, vec="dummy")
    venv = build([lambda: Spy(make("HalfCheetah-shifted"))] * 3, 2)
    venv.seed(5)
    assert bits(dummy.reset()) == bits(venv.reset())
    for _ in range(5):
        actions = np.full((3, 6), 0.3, np.float32)
        assert bits(dummy.step(actions)) == bits(venv.step(actions))
    assert not any(process["torch"] for process in venv.env_method("process"))


# The processes


def test_environments_are_shared_out(build: Any) -> None:
    before = dict(os.environ)
    venv = build([toy()] * 5, 2)
    processes = venv.env_method("process")
    pids = [process["pid"] for process in processes]
    assert len(set(pids[:2])) == len(set(pids[2:])) == 1
    assert len(set(pids) | {os.getpid()}) == 3
    for process in processes:
        assert process["blas"] == ["1"] * 3
        assert process["threads"] == 2  # the one that steps, and the one that waits for the parent's end
    assert dict(os.environ) == before
    venv.step_async(actions_for(venv, 0))
    venv.close()
    assert venv.closed
    assert not any(map(alive, pids))
    venv.close()
    with pytest.raises(WorkerError, match="closed"):
        venv.reset()


def test_never_more_workers_than_environments_or_cores(build: Any, monkeypatch: Any) -> None:
    assert [len(share) for share in daft_rl.envs.batch.workers.shares(2, 5)] == [1, 1]
    assert [len(share) for share in daft_rl.envs.batch.workers.shares(16, 3)] == [5, 5, 6]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert daft_rl.envs.batch.workers.shares(16, None) == [range(16)]


def test_a_forgotten_batch_ends() -> None:
    venv = WorkerVecEnv([toy()], 1)
    pids = [process["pid"] for process in venv.env_method("process")]
    del venv
    gc.collect()
    assert not any(map(alive, pids))


# What goes wrong


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("constructor", r"Environment 1 failed: daft_rl.errors.TaskError: Unknown task 'Toi'(?s:.*)Traceback"),
        ("reset", r"Environment 1 failed: ValueError: no reset today(?s:.*)Traceback(?s:.*)in reset"),
        ("step", r"Environment 1 failed: ZeroDivisionError: no step today(?s:.*)Traceback(?s:.*)in fail"),
        ("exit", "Environment 1 failed: SystemExit: 5"),
        ("_exit", "The worker of environment 1 ended with exit code 3"),
        ("SIGKILL", "The worker of environment 1 was killed by SIGKILL .*memory"),
    ],
)
def test_an_error_says_where(fault: str, message: str) -> None:
    pids: list[int] = []

    def play() -> None:
        venv = WorkerVecEnv([toy(), toy(fault=fault)], 1 if fault in ("reset", "exit") else 2)
        pids.extend(process["pid"] for process in venv.env_method("process"))
        venv.reset()
        venv.step(actions_for(venv, 0))

    with pytest.raises(WorkerError, match=message):
        play()
    assert not any(map(alive, pids))


def test_methods_may_fail_and_kill(build: Any) -> None:
    for how, error in [
        ("step", "Environment 1 failed: ZeroDivisionError"),
        ("SIGKILL", "environments 0 to 1 was killed"),
    ]:
        venv = build([toy()] * 2, 1)
        with pytest.raises(WorkerError, match=error):
            venv.env_method("fail", how, indices=1)
        assert venv.closed
    venv = build([toy()], 1)
    with pytest.raises(WorkerError, match=r"Environment 0 failed: TypeError: cannot pickle"):
        venv.get_attr("lock")


def test_a_worker_that_died_meanwhile(build: Any) -> None:
    venv = build([toy()] * 2, 2)
    venv.reset()
    pid = venv.env_method("process", indices=1)[0]["pid"]
    os.kill(pid, signal.SIGTERM)
    await_end([pid])
    with pytest.raises(WorkerError, match="environment 1 was killed by SIGTERM"):
        venv.step(actions_for(venv, 0))


def test_misuse_is_refused(build: Any) -> None:
    for workers in (0, -1, 1.5, True):
        with pytest.raises(TaskError, match="workers: expected a whole number >= 1"):
            WorkerVecEnv([toy()], workers)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="at least one"):
        WorkerVecEnv([])
    env = gym.make("CartPole-v1")
    with pytest.raises(WorkerError, match=r"Environment 1 failed: ValueError: .*the same environment twice"):
        WorkerVecEnv([lambda: env] * 2, 1)
    venv = build([toy()] * 2, 1)
    venv.reset()
    with pytest.raises(TaskError, match="Expected 2 actions"):
        venv.step_async(np.zeros((3, 2)))
    with pytest.raises(WorkerError, match="without step_async"):
        venv.step_wait()
    venv.step(actions_for(venv, 0))  # nothing is lost


# Interrupts


@pytest.mark.parametrize("delay", [0.02, 0.3, 1.0])
def test_an_interrupt_at_any_moment(delay: float, monkeypatch: Any) -> None:
    """In the constructor, or in a step that never ends."""
    monkeypatch.setattr(daft_rl.envs.batch.workers, "GRACE", 0.1)
    before = set(children())
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(delay, signal.pthread_kill, (main, signal.SIGINT))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background, shells have it ignored
    venv = None
    try:
        timer.start()
        venv = WorkerVecEnv([toy(fault="stuck")] * 2, 2)
        venv.reset()
        venv.step(actions_for(venv, 0))
    except KeyboardInterrupt:
        pass
    finally:
        timer.join()
        signal.signal(signal.SIGINT, handler)
    assert venv is None or venv.closed
    await_end(list(set(children()) - before))


SCRIPT = """
import os, signal, sys, threading
import gymnasium as gym, numpy as np
import daft_rl.envs.batch.workers
from daft_rl.envs.batch.workers import WorkerVecEnv

daft_rl.envs.batch.workers.GRACE = 0.1

class Mark: pass

class Mine(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)
    mark = Mark()
    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {"pid": os.getpid()}
    def step(self, action):
        import daft_rl.envs.batch.worker
        daft_rl.envs.batch.worker.GRACE = 0.1
        if how != "exit":
            threading.Event().wait()
        return np.zeros(2, np.float32), 0.0, False, False, {}

for how in ("SIGKILL", "SIGINT", "exit"):  # forks: the imports above take seconds
    if how == "exit" or os.fork() == 0:
        break
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background, shells have it ignored
if how != "exit":
    os.setsid()
os.dup2(os.open(how + ".err", os.O_WRONLY | os.O_CREAT), 2)

venv = WorkerVecEnv([Mine] * 2, 1 if how == "exit" else 2)
assert all(isinstance(mark, Mark) for mark in venv.get_attr("mark"))
venv.reset()
print(how, os.getpid(), *{info["pid"] for info in venv.reset_infos}, flush=True)
venv.step(np.zeros(2, int))
"""


def test_scripts_leave_nothing_behind(tmp_path: Path) -> None:
    """Scripts without ``if __name__ == "__main__"`` that never close their environments."""
    (tmp_path / "script.py").write_text(SCRIPT)
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    script = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=os.environ | path
    )
    assert script.stdout is not None
    seen = set()
    for line in script.stdout:  # until all who could write have ended
        how, main, *workers = line.split()
        seen.add(how)
        if how == "SIGKILL":
            os.kill(int(main), signal.SIGKILL)  # while its workers are stuck
        if how == "SIGINT":
            os.killpg(int(main), signal.SIGINT)  # as a terminal does: to the workers too
        await_end([int(pid) for pid in ([main, *workers] if how != "exit" else workers)])
    assert script.wait(DEADLINE) == 0
    errors = {how: (tmp_path / f"{how}.err").read_text() for how in ("exit", "SIGINT", "SIGKILL")}
    assert seen == set(errors), errors
    assert (errors["exit"], errors["SIGKILL"]) == ("", "")
    assert errors["SIGINT"].rstrip().endswith("KeyboardInterrupt")
    assert errors["SIGINT"].count("Traceback") == 1, errors["SIGINT"]
