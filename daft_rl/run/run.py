"""One run: its folder, what it opens, and the parts that learn and record."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from daft_rl.archives import read_multiplier
from daft_rl.envs.domain import Domain
from daft_rl.errors import ConfigError, DaftError, DivergenceError
from daft_rl.finetune import Adaptation
from daft_rl.policy import Distortion
from daft_rl.rollout.lagrangian import Lagrangian
from daft_rl.rollout.profile import Profile, TimedVecEnv
from daft_rl.rollout.returns import Returns
from daft_rl.run.background import BackgroundCall
from daft_rl.run.divergence import DivergenceWatch, refused_distribution
from daft_rl.run.environments import Environments
from daft_rl.run.evaluator import Evaluator
from daft_rl.run.folder import note_traceback, open_folder
from daft_rl.run.monitoring import Monitoring
from daft_rl.settings import RunSettings

__all__ = ["Run", "Stateful"]


class Stateful(Protocol):
    """A part of a run whose state can be taken out and put back, so that a run can go on."""

    def state_dict(self) -> Any:
        """The state, as plain data, arrays and tensors."""

    def load_state_dict(self, state: Any) -> None:
        """Go on from a state."""


class Run:
    """Opens the run folder and closes everything at the end. A program fills in the parts.

    :param settings: of the run
    :raises ConfigError: the device does not exist, or nothing can be written to the folder
    """

    model: BaseAlgorithm
    training: VecEnv
    """The environments that learning steps, with raw observations and rewards."""
    evaluator: Evaluator
    adaptation: Adaptation | None = None
    monitoring: Monitoring
    zero_shot: BackgroundCall[dict[str, Returns]]
    """Returns of the source, before anything changes it."""
    distortion_on_source: Distortion | None = None

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.folder = Path(settings.output_dir)
        self.profile = Profile()
        self.environments = Environments(settings.vec, settings.device, settings.env.step_timeout)
        self._stack = ExitStack()

    def __enter__(self) -> Run:
        _check_device(self.settings.device)
        if self.environments.has_worlds:  # SB3 advises against policies on a GPU, where each step would come from a CPU
            self._stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "You are trying to run", UserWarning)
        open_folder(self.settings)
        self._stack.callback(self.environments.close)
        if self.settings.torch_threads is not None:
            torch.set_num_threads(self.settings.torch_threads)
        set_random_seed(self.settings.seed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        problem = None if error is None else refused_distribution(error)
        named = None
        if problem is not None and not isinstance(error, DaftError):
            named = DivergenceError(f"{problem}. Look at the scale of the observations, and at the policy.")
            named.__cause__ = error
        if isinstance(error, Exception):
            note_traceback(self.folder, named or error)
        self._stack.close()
        if named is not None:
            raise named

    def learning_env(self, domain: Domain, agent: Path | BaseAlgorithm | None = None) -> VecEnv:
        """Open :attr:`training`, and wrap it for learning: episodes go to ``monitor.csv``, and costs are limited.

        :param domain: where to learn
        :param agent: a source; a limit on costs goes on with the multiplier that the source learnt under last
        """
        self.training = self.environments.open_for_learning(domain, self.settings.num_envs)
        task = self.settings.env
        logged = ("episode_cost",) if domain.has_cost or task.cost_limit is not None else ()
        venv: VecEnv = VecMonitor(
            TimedVecEnv(self.training, self.profile), filename=str(self.folder / "monitor.csv"), info_keywords=logged
        )
        if task.cost_limit is None:
            return venv
        start = read_multiplier(agent) or 0.0 if task.cost_multiplier is None else task.cost_multiplier
        return Lagrangian(venv, task.cost_limit, task.cost_rate, start)

    def visited(self, role: str) -> VecEnv:
        """Where the agent visits states before it learns: :attr:`training`.

        In place of worlds it is the batch that plays in ``role`` during learning: a few states of each of thousands of
        worlds would be the beginnings of episodes.
        """
        return self.evaluator.open_envs[role] if self.environments.has_worlds else self.training

    def open_evaluator(self, domains: dict[str, Domain], during: dict[str, Domain]) -> Evaluator:
        """Make the evaluator of :attr:`model`.

        :param domains: role -> where it plays before and after learning
        :param during: role -> where it plays during learning
        """
        episodes = self.settings.evaluation.episodes_during
        envs = {role: self.environments.open(domain, episodes) for role, domain in during.items()}
        self.evaluator = Evaluator(self.model, self.settings, self.environments, envs, domains)
        self._stack.callback(self.evaluator.close)
        return self.evaluator

    def learn(self) -> None:
        """Learn with the adaptation and with monitoring, and with TensorBoard files in the run folder."""
        logger = configure(str(self.folder / "tensorboard"), ["tensorboard"])
        self._stack.callback(logger.close)
        self.model.set_logger(logger)
        watch = DivergenceWatch(self.folder / "last_good.zip")
        callbacks: list[BaseCallback] = [part for part in (watch, self.adaptation, self.monitoring) if part is not None]
        with watch.keeping_the_good():
            self.model.learn(self.settings.total_timesteps, callback=callbacks, progress_bar=self.settings.progress_bar)

    # -- state ----------------------------------------------------------------------------------------

    def parts(self) -> dict[str, Stateful]:
        """Everything beside the model that a run needs to go on."""
        named: dict[str, Stateful | None] = {
            "profile": self.profile,
            "adaptation": self.adaptation,
            "monitoring": self.monitoring,
            "distortion_on_source": self.distortion_on_source,
        }
        found = {name: part for name, part in named.items() if part is not None}
        return found | _stateful_wrappers(self.model.get_env())

    def state_dict(self) -> dict[str, Any]:
        """The states of all parts, by name."""
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the states of :meth:`state_dict` back."""
        for name, part in self.parts().items():
            part.load_state_dict(state[name])


class _Normalization:
    """The state of a ``VecNormalize``."""

    def __init__(self, normalizer: VecNormalize) -> None:
        self.normalizer: Any = normalizer

    def _running(self) -> dict[str, Any]:
        observations = getattr(self.normalizer, "obs_rms", None)
        by_key = observations if isinstance(observations, dict) else {"": observations}
        return {f"obs {key}": part for key, part in by_key.items() if part is not None} | {
            "ret": self.normalizer.ret_rms
        }

    def state_dict(self) -> dict[str, Any]:
        running = {name: (part.mean.copy(), part.var.copy(), part.count) for name, part in self._running().items()}
        return {"running": running, "returns": self.normalizer.returns.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._running().items():
            mean, var, part.count = state["running"][name]
            part.mean, part.var = mean.copy(), var.copy()
        self.normalizer.returns = state["returns"].copy()


def _stateful_wrappers(venv: VecEnv | None) -> dict[str, Stateful]:
    """The wrappers that hold more than an episode's state, outermost first."""
    found: dict[str, Stateful] = {}
    while isinstance(venv, VecEnvWrapper):
        name = type(venv).__name__
        if isinstance(venv, VecNormalize):
            found[name] = _Normalization(venv)
        elif hasattr(type(venv), "state_dict"):  # the wrapper itself passes on the attributes of what it wraps
            found[name] = venv
        venv = venv.venv
    return found


def _check_device(device: str) -> None:
    """SB3 falls back to the CPU without a word."""
    try:
        kind = torch.device("cpu" if device == "auto" else device).type
    except RuntimeError as error:
        raise ConfigError(f"device={device}: expected auto, cpu, cuda, or one of several, cuda:1.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={device}: PyTorch {torch.__version__} finds no CUDA here. Use device=auto or cpu.")
