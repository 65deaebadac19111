"""Measure one learner, or the processor's matrix products, in this process. ``learner.py`` starts it.

    python -m benchmarks.speed.learner_worker '{"variant": "sb3", "algorithm": "SAC", "batchnorm": false, "steps": 100}'

For sbx it runs in an environment that has neither daft_rl nor sb3-contrib, so libraries are imported where they are
used.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.learner_operations import BATCH, ENVIRONMENTS, HIDDEN

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback

LEARNING_STARTS, WARM_UP = 300, 100
"""Random steps, and steps with an update each that are not timed: kernels are compiled and chosen meanwhile."""
NUM_ENVS, ROLLOUT, EPOCHS = 16, 128, 10
"""Of PPO: environments, steps of each per rollout, and passes over it."""
MINIBATCHES = NUM_ENVS * ROLLOUT // BATCH
VERSIONS_OF = ("torch", "jax", "numpy", "stable-baselines3", "sb3-contrib", "sbx-rl", "mujoco", "gymnasium")
METHOD = {"name": "ft_auto", "bn_mode": "auto"}
"""``ft_eval``, but with the statistics of batches in CrossQ, as in the other libraries, and with constant rates."""


def pin() -> None:
    """Keep this process on its first core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def settings(algorithm: str) -> dict[str, Any]:
    """What all libraries are given."""
    shared: dict[str, Any] = {"learning_rate": 3e-4, "batch_size": BATCH, "seed": 0, "device": "cpu"}
    if algorithm == "PPO":
        return shared | {"n_steps": ROLLOUT, "n_epochs": EPOCHS}
    shared |= {"buffer_size": 100_000, "learning_starts": LEARNING_STARTS, "train_freq": 1, "gradient_steps": 1}
    if algorithm == "DQN":
        shared |= {"exploration_initial_eps": 0.05, "exploration_final_eps": 0.05}
    return shared


def make_model(variant: str, algorithm: str, batchnorm: bool) -> BaseAlgorithm:
    """A new agent of SB3, sb3-contrib or sbx."""
    from stable_baselines3.common.env_util import make_vec_env

    policy: dict[str, Any] = {"net_arch": list(HIDDEN)}
    if variant == "sbx":
        import sbx as library

        if algorithm == "CrossQ":
            policy |= {"batch_norm": batchnorm, "batch_norm_actor": batchnorm}
    else:
        import sb3_contrib
        import stable_baselines3
        import torch

        torch.set_num_threads(1)
        library = sb3_contrib if hasattr(sb3_contrib, algorithm) else stable_baselines3
        if algorithm == "CrossQ":
            policy |= {"batch_norm": batchnorm}
    venv = make_vec_env(ENVIRONMENTS[algorithm], NUM_ENVS if algorithm == "PPO" else 1, seed=0)
    return getattr(library, algorithm)("MlpPolicy", venv, policy_kwargs=policy, **settings(algorithm))


def random_observations(model: BaseAlgorithm, number: int = 512) -> NDArray[Any]:
    """Observations for the statistics of inserted layers; their values do not matter for the speed."""
    return np.stack([model.observation_space.sample() for _ in range(number)]).astype(np.float32)


def insert_fixed_batchnorm(model: Any) -> None:
    """Give SB3's agent BatchNorm layers that keep their running statistics in updates, as in ``daft_rl.adapt``."""
    import torch

    from daft_rl import insert_batchnorm

    insert_batchnorm(model, [torch.as_tensor(random_observations(model))])
    for module in model.policy.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval().train = lambda mode=True, module=module: module  # type: ignore[method-assign, misc]


def prepare(variant: str, algorithm: str, batchnorm: bool) -> tuple[BaseAlgorithm, list[BaseCallback]]:
    """An agent that can learn, and the callbacks it needs for that."""
    model = make_model(variant, algorithm, batchnorm)
    inserted = batchnorm and algorithm != "CrossQ"  # which has its own
    if variant == "daft_rl":
        from daft_rl import adapt

        return model, [adapt(model, METHOD, experience=random_observations(model), insert_batchnorm=inserted)]
    if inserted:
        insert_fixed_batchnorm(model)
    return model, []


def clock(begin: int) -> Any:
    """A callback that times learning, and the updates between rollouts, from step ``begin`` to the end."""
    from stable_baselines3.common.callbacks import BaseCallback

    def now() -> NDArray[np.float64]:
        return np.array([time.process_time(), time.perf_counter()])

    class Clock(BaseCallback):
        """Its times are pairs of CPU seconds and wall seconds."""

        def __init__(self) -> None:
            super().__init__()
            self.started: NDArray[np.float64] | None = None
            self.rollout_end = self.updating = self.total = np.zeros(2)

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            if self.started is not None:
                self.updating = self.updating + now() - self.rollout_end
            elif self.num_timesteps >= begin:
                self.first_step, self.first_update = self.num_timesteps, self.model._n_updates  # type: ignore[attr-defined]
                self.started = now()

        def _on_rollout_end(self) -> None:
            self.rollout_end = now()

        def _on_training_end(self) -> None:
            end = now()
            assert self.started is not None, "learning ended before the warm-up"
            self.updating, self.total = self.updating + end - self.rollout_end, end - self.started
            self.steps = self.num_timesteps - self.first_step
            self.updates = self.model._n_updates - self.first_update  # type: ignore[attr-defined]

    return Clock()


def measure_learner(variant: str, algorithm: str, batchnorm: bool, steps: int) -> dict[str, Any]:
    """Let one agent learn.

    :param steps: gradient steps to time. PPO makes whole rollouts of them
    :return: steps of the environment, gradient steps, and seconds for both and for the updates alone
    """
    model, callbacks = prepare(variant, algorithm, batchnorm)
    begin, timed_steps = LEARNING_STARTS + WARM_UP, steps
    if algorithm == "PPO":
        begin = NUM_ENVS * ROLLOUT
        timed_steps = math.ceil(steps / (EPOCHS * MINIBATCHES)) * begin
    timing = clock(begin)
    model.learn(begin + timed_steps, callback=[timing, *callbacks], log_interval=None)  # type: ignore[arg-type]
    return {
        "env_steps": timing.steps,
        "gradient_steps": timing.updates * (MINIBATCHES if algorithm == "PPO" else 1),
        "cpu": float(timing.total[0]),
        "wall": float(timing.total[1]),
        "update_cpu": float(timing.updating[0]),
        "update_wall": float(timing.updating[1]),
    }


def matrix_limit(size: int = 256, products: int = 200, tries: int = 5) -> dict[str, float]:
    """Billions of operations per second in products of ``size x size`` float32 matrices, the best of some tries."""
    import torch

    torch.set_num_threads(1)
    left, right = torch.randn(size, size), torch.randn(size, size)
    left_array, right_array = left.numpy(), right.numpy()
    multiply: dict[str, Callable[[], Any]] = {
        "torch.mm": lambda: torch.mm(left, right),
        "numpy": lambda: left_array @ right_array,
    }
    onednn: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # not in every build
    if onednn is not None:
        multiply["onednn"] = lambda: onednn(left, right, None, "none", [], "")

    def best(product: Callable[[], Any]) -> float:
        times = []
        for _ in range(tries + 1):  # the first one is slower
            started = time.process_time()
            for _ in range(products):
                product()
            times.append(time.process_time() - started)
        return 2 * size**3 * products / min(times) / 1e9

    return {name: best(product) for name, product in multiply.items()}


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide the speed, of those that are there."""
    found = {}
    for name in VERSIONS_OF:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Do the job that the only argument describes, and print JSON."""
    pin()
    job = json.loads(sys.argv[1])
    found = {"gflops": matrix_limit()} if job["variant"] == "limit" else measure_learner(**job)
    print(json.dumps(found | {"versions": installed_versions()}))


if __name__ == "__main__":
    main()
