"""A run folder and the environments that a run opens."""

from __future__ import annotations

import json
import math
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from omegaconf import DictConfig, OmegaConf
from stable_baselines3 import TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize, unwrap_vec_wrapper

from daft_rl.agents import BatchNormExtractor, fuse_batch_renorm
from daft_rl.archives.load import apply_vecnormalize, check_hyperparameters, load_agent, read_vecnormalize
from daft_rl.cli import plain
from daft_rl.envs.batch.workers import WorkerVecEnv
from daft_rl.envs.cores import usable_cores
from daft_rl.envs.domain import Domain
from daft_rl.errors import AgentError, ConfigError
from daft_rl.files import write_json
from daft_rl.imports import load_object
from daft_rl.policy.folding import fold_normalization
from daft_rl.rollout.evaluation import Returns, evaluate, evaluate_all
from daft_rl.rollout.lagrangian import Lagrangian
from daft_rl.rollout.profile import Phases, TimedVecEnv
from daft_rl.run.background import BackgroundCall

__all__ = ["Workspace", "bound_exploration", "find_constraint", "save_agent"]

T = TypeVar("T")

COUNTS = (
    *("num_envs", "total_timesteps", "calibration.steps", "calibration.held_out"),
    *("evaluation.every", "evaluation.episodes", "evaluation.episodes_during", "torch_threads"),
)
"""Settings of which there is at least one."""
SEEDS = ("seed", "evaluation.seed")
FLAGS = ("render", "progress_bar", "agent.trust", "agent.adapt_spaces")
"""Settings that are true or false. To Hydra ``no`` and ``off`` are texts, which would count as true."""

FOR_ARCHIVES = ("policy", "policy_kwargs", "activation", "trust", "adapt_spaces")
"""Settings of ``agent`` that tell how to read a file."""


def save_agent(model: BaseAlgorithm, path: Path, prefix: str = "") -> None:
    """Save an archive, and beside it what belongs to it: ``vecnormalize.pkl`` and ``constraint.json``.

    :param model: any SB3 algorithm object
    :param path: of the archive, ending in ``.zip``
    :param prefix: of the names beside it; ``best_`` keeps what belongs to ``best.zip`` from ``final.zip``
    """
    normalizer, constraint = model.get_vec_normalize_env(), find_constraint(model.get_env())
    with TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as folder:
        unfinished = Path(folder)
        model.save(unfinished / path.name)
        if normalizer is not None:
            normalizer.save(str(unfinished / "vecnormalize.pkl"))
        if constraint is not None:
            write_json(unfinished / "constraint.json", constraint.state())
        # the archive after what it needs: whenever the process is killed, no agent lies here without its statistics
        beside = {name: path.with_name(f"{prefix}{name}") for name in ("vecnormalize.pkl", "constraint.json")}
        for name in (saved.name for saved in list(unfinished.iterdir()) if saved.name in beside):
            (unfinished / name).replace(beside.pop(name))
        (unfinished / path.name).replace(path)
    for old in beside.values():  # of an agent that was here before
        old.unlink(missing_ok=True)


def _saved_multiplier(agent: Path | BaseAlgorithm | None) -> float | None:
    """The multiplier that an agent learnt under last; of an archive, what :func:`save_agent` left beside it."""
    if not isinstance(agent, Path):
        constraint = agent and find_constraint(agent.get_env())
        return constraint.multiplier if constraint else None
    archive = agent
    for path in (archive.with_name(f"{archive.stem}_constraint.json"), archive.with_name("constraint.json")):
        if path.is_file():
            return float(json.loads(path.read_text("utf-8"))["multiplier"])
    return None


def find_constraint(venv: VecEnv | None) -> Lagrangian | None:
    """The limit on costs that a model learns under, if there is one."""
    return None if venv is None else unwrap_vec_wrapper(venv, Lagrangian)  # type: ignore[return-value]


@torch.no_grad()
def bound_exploration(model: BaseAlgorithm, least: float | None, most: float | None = None) -> None:
    """Let a Gaussian policy explore again, since a trained one hardly does and then cannot learn either; or less.

    The deterministic policy does not change. Policies whose standard deviation depends on the state
    (SAC, gSDE) and those with discrete actions are left alone.

    :param model: any SB3 algorithm object
    :param least: standard deviation of each action, in units of the action space; for TD3 and DDPG without action
        noise, that of the noise they get, in units of half the range. ``None`` is no bound
    :param most: likewise, for Gaussian policies
    :raises ConfigError: a bound that is not above 0
    """
    for name, bound in (("exploration_std", least), ("most_exploration_std", most)):
        if bound is not None and not (isinstance(bound, int | float) and 0 < bound < math.inf):
            raise ConfigError(f"algo.{name}: expected a finite number above 0, or null, got {bound!r}.")
    if isinstance(model, TD3) and model.action_noise is None and least is not None:
        size = model.action_space.shape or ()
        model.action_noise = NormalActionNoise(np.zeros(size), np.full(size, least))
    if isinstance(getattr(model.policy, "action_dist", None), DiagGaussianDistribution):
        low, high = (-math.inf if least is None else math.log(least)), (math.inf if most is None else math.log(most))
        model.policy.log_std.clamp_(low, high)  # type: ignore[operator, union-attr]


def _check_device(device: str) -> None:
    """SB3 goes on without CUDA in silence."""
    try:
        kind = torch.device("cpu" if device == "auto" else device).type
    except RuntimeError as error:
        raise ConfigError(f"device={device}: expected auto, cpu, cuda, or one of several, cuda:1.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={device}: PyTorch {torch.__version__} finds no CUDA here. Take device=auto or cpu.")


def _import_classes(kwargs: dict[str, Any] | None) -> dict[str, Any] | None:
    """Texts like ``my_package:MyExtractor`` are what they name."""
    if kwargs is None:
        return None
    return {key: load_object(item) if isinstance(item, str) and ":" in item else item for key, item in kwargs.items()}


def _treat_normalization(model: BaseAlgorithm, how: str) -> None:
    """``frozen`` is how a source is loaded."""
    if how not in ("frozen", "update", "fold"):
        raise AgentError(f"agent.normalize: unknown value {how!r}, expected frozen, update or fold.")
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None and how == "update":
        normalizer.training = True
    if normalizer is not None and how == "fold":
        fold_normalization(model)


class Workspace:
    """The folder of a run, with its resolved configuration; closes every environment it opened.

    :param cfg: the composed configuration
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.folder = Path(cfg.output_dir)
        self.phases = Phases()
        """Where the time of the run goes."""
        self._stack = ExitStack()
        self._calls: list[BackgroundCall[Any]] = []

    def __enter__(self) -> Workspace:
        for key in COUNTS:
            count = OmegaConf.select(self.cfg, key)
            if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
                raise ConfigError(f"{key}: expected a whole number >= 1, such as 10000, got {count!r}.")
        for key in SEEDS:
            seed = OmegaConf.select(self.cfg, key)
            if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
                raise ConfigError(f"{key}: expected a whole number from 0 to 2^32 - 1, got {seed!r}.")
        for key in FLAGS:
            flag = OmegaConf.select(self.cfg, key)
            if flag is not None and not isinstance(flag, bool):
                raise ConfigError(f"{key}: expected true or false, got {flag!r}.")
        _check_device(self.cfg.device)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "results.json").unlink(missing_ok=True)  # of an earlier run, whose settings go next
            OmegaConf.save(self.cfg, self.folder / "config.yaml", resolve=True)
        except OSError as error:
            raise ConfigError(f"output_dir={self.folder}: nothing can be written there: {error}.") from error
        if self.cfg.torch_threads is not None:
            torch.set_num_threads(self.cfg.torch_threads)
        set_random_seed(self.cfg.seed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def env(self, domain: Domain, num_envs: int, stack: ExitStack | None = None) -> VecEnv:
        """A batch of environments, images channels first; closed with ``stack``, by default with the workspace."""
        venv = domain.make_vec(num_envs, self.cfg.vec)
        (stack or self._stack).callback(venv.close)
        return BaseAlgorithm._wrap_env(venv, verbose=0, monitor_wrapper=False)

    def fitting(self, domains: Mapping[str, Domain], model: BaseAlgorithm) -> dict[str, Domain]:
        """The domains in which an agent whose spaces were adapted to the target can play.

        :param domains: role -> domain
        :param model: it was loaded for the target
        """
        expected = (model.observation_space, model.action_space)

        def fits(domain: Domain) -> bool:
            env = domain.make()
            env.close()
            return all(
                type(space) is type(own) and spaces.flatdim(space) == spaces.flatdim(own)
                for space, own in zip((env.observation_space, env.action_space), expected, strict=True)
            )

        fit = {role: domain for role, domain in domains.items() if role == "target" or fits(domain)}
        for role in domains.keys() - fit.keys():
            print(f"The adapted agent does not play in '{role}', where spaces have other sizes.", file=sys.stderr)
        return fit

    def play(
        self, model: BaseAlgorithm, domains: Mapping[str, Domain], at_hand: Mapping[str, VecEnv]
    ) -> dict[str, Returns]:
        """The evaluations before and after learning.

        In threads all episodes are played at once. Where environments are slow to make, those at hand play, and one
        domain after the other.

        :param model: any SB3 algorithm object
        :param domains: role -> where to play
        :param at_hand: role -> the batch that plays during learning, for some of them
        :return: role -> returns
        """
        asked = self.cfg.evaluation
        with ExitStack() as stack:
            in_threads = {
                role: self.env(domain, asked.episodes, stack)
                for role, domain in domains.items()
                if domain.steps_in_threads(self.cfg.vec)
            }
            returns = evaluate_all(model, in_threads, asked.episodes, asked.seed)
        for role in [role for role in domains if role not in returns]:
            with ExitStack() as stack:
                venv = at_hand[role] if role in at_hand else self.env(domains[role], asked.episodes_during, stack)
                returns[role] = evaluate(model, venv, asked.episodes, asked.seed)
        return {role: returns[role] for role in domains}

    def beside(
        self, model: BaseAlgorithm, domains: Iterable[Domain], venvs: Iterable[VecEnv]
    ) -> Callable[[Callable[[], T]], BackgroundCall[T]]:
        """How evaluations begin: in another process while this one goes on, or here.

        ``evaluate_beside=auto`` takes another process where a core may be idle and nothing forbids a fork, and leaves
        environments of the user's alone, which may hold what cannot be copied.

        :param model: who plays
        :param domains: where
        :param venvs: the batches that are at hand for it
        :return: takes what is to be called
        :raises ConfigError: ``evaluate_beside=true`` where that is impossible
        """
        asked, fork = self.cfg.evaluate_beside, False
        if asked not in ("auto", True, False):
            raise ConfigError(f"evaluate_beside: expected auto, true or false, got {asked!r}.")
        if asked:
            workers = any(isinstance(venv.unwrapped, WorkerVecEnv) for venv in venvs)
            reasons = {
                "only Linux has what it takes": sys.platform != "linux",
                "a process that computes on a GPU cannot be copied": model.device.type != "cpu",
                f"torch_threads={torch.get_num_threads()}, which do not survive a copy": torch.get_num_threads() > 1,
                "worker processes serve one master (vec=dummy goes)": workers,
                "this process may have none beside it": multiprocessing.current_process().daemon,
            }
            reason = next((told for told, holds in reasons.items() if holds), None)
            if asked is True and reason is not None:
                raise ConfigError(f"evaluate_beside=true: {reason}. Take auto or false.")
            ours = all(domain.is_ours for domain in domains)
            fork = reason is None and (asked is True or (ours and usable_cores() > 1))

        def begin(function: Callable[[], T]) -> BackgroundCall[T]:
            self._calls.append(BackgroundCall(function, fork))
            self._stack.callback(self._calls[-1].cancel)
            return self._calls[-1]

        return begin

    @property
    def seconds_beside(self) -> float:
        """How long other processes evaluated while this one learnt."""
        return sum(call.seconds for call in self._calls)

    def monitored(self, venv: VecEnv, domain: Domain, agent: Path | BaseAlgorithm | None = None) -> VecEnv:
        """What to learn from: each finished episode is a line in ``monitor.csv``, costs are limited.

        :param venv: a batch of ``domain``
        :param domain: tells whether there are costs
        :param agent: of a source; a limit on costs goes on with the multiplier that it learnt under last
        """
        limit = self.cfg.env.get("cost_limit")
        logged = ("episode_cost",) if domain.has_cost or limit is not None else ()
        venv = VecMonitor(
            TimedVecEnv(venv, self.phases), filename=str(self.folder / "monitor.csv"), info_keywords=logged
        )
        if limit is not None:
            start = self.cfg.env.cost_multiplier
            if start is None:
                start = _saved_multiplier(agent) or 0.0
            venv = Lagrangian(venv, limit, self.cfg.env.cost_rate, start)
        return venv

    def build(self, venv: VecEnv) -> BaseAlgorithm:
        """A fresh agent with BatchNorm in actor and critic, as the recipe says."""
        recipe = self.cfg.recipe
        settings = plain(recipe.settings)
        if recipe.normalize_reward:
            venv = VecNormalize(venv, norm_obs=False, norm_reward=True, gamma=settings.get("gamma", 0.99))
        policy_kwargs = plain(recipe.policy)
        if recipe.extractor is not None:
            policy_kwargs |= {
                "features_extractor_class": BatchNormExtractor,
                "features_extractor_kwargs": plain(recipe.extractor),
                "share_features_extractor": False,
            }
        algorithm: type[BaseAlgorithm] = load_object(self.cfg.algo["class"])
        model = algorithm(
            "MlpPolicy", venv, policy_kwargs=policy_kwargs, seed=self.cfg.seed, device=self.cfg.device, **settings
        )
        fuse_batch_renorm(model.policy)
        return model

    def load(self, agent: Path | BaseAlgorithm, venv: VecEnv) -> BaseAlgorithm:
        """Load a source, with the settings for fine-tuning that the configuration gives.

        :param agent: an archive; or an agent as it is, of which a copy is made
        :param venv: what to learn from
        """
        given, algo = plain(self.cfg.agent), self.cfg.algo
        settings = {key: value for key, value in algo.settings.items() if value is not None}
        kind: type[BaseAlgorithm] = load_object(algo["class"])
        if isinstance(agent, BaseAlgorithm):
            if not isinstance(agent, kind):
                raise AgentError(
                    f"algo={algo.name} is for agents of {kind.__name__}, got one of {type(agent).__name__}."
                )
            check_hyperparameters(kind, settings)
            ignored = [name for name in FOR_ARCHIVES if given[name]]
            if ignored:
                raise AgentError(f"agent.{ignored[0]} is for archives; an agent that is passed is taken as it is.")
            archive = self.folder / "source.zip"
            save_agent(agent, archive, prefix="source_")
            if agent.get_vec_normalize_env() is not None:
                venv = apply_vecnormalize(venv, read_vecnormalize(archive.with_name("source_vecnormalize.pkl")))
            try:
                model = type(agent).load(archive, env=venv, device=self.cfg.device, **settings)
            except ValueError as error:  # other spaces
                raise AgentError(
                    f"The agent does not fit the target: {error}. Save it and pass the archive with "
                    "overrides=['agent.adapt_spaces=true'] if its vectors are longer or shorter."
                ) from error
            except AttributeError as error:  # an optimizer that these settings do without
                raise AgentError(
                    f"algo.settings {settings} do not go with what the agent holds: {error}. Save it, pass the archive."
                ) from error
        else:
            if given["policy"] is not None:
                settings["policy"] = load_object(given["policy"])
            model = load_agent(
                agent,
                env=venv,
                algo=kind,
                trust=given["trust"],
                device=self.cfg.device,
                policy_kwargs=_import_classes(given["policy_kwargs"]),
                activation=given["activation"],
                adapt_spaces=given["adapt_spaces"],
                **settings,
            )
        _treat_normalization(model, given["normalize"])
        noise = getattr(model, "action_noise", None)
        if noise is not None:  # SB3 would keep it for as many environments as it was made for
            model.action_noise = getattr(noise, "base_noise", noise)  # type: ignore[attr-defined]
        bound_exploration(model, algo.exploration_std, algo.get("most_exploration_std"))
        fuse_batch_renorm(model.policy)
        model.set_random_seed(self.cfg.seed)
        return model

    def check_steps(self, model: BaseAlgorithm) -> None:
        """Whether there are steps left to learn from; of a single rollout it is told that rates have fallen by then.

        :raises ConfigError: an off-policy algorithm would only fill its replay buffer
        """
        total, idle = self.cfg.total_timesteps, getattr(model, "learning_starts", 0)
        rollout = model.n_steps * model.n_envs if isinstance(model, OnPolicyAlgorithm) else 0
        if total <= rollout:
            print(
                f"total_timesteps={total} is one rollout, of {rollout} steps, after which learning rates that decay "
                "are 0. To learn, take more steps, or fewer num_envs or algo.settings.n_steps.",
                file=sys.stderr,
            )
        if total <= idle:
            raise ConfigError(
                f"total_timesteps={total}: learning would begin after {idle} steps. Take more, or set "
                "algo.settings.learning_starts."
            )

    def render(self, model: BaseAlgorithm, name: str, domain: Domain) -> None:
        """Write ``NAME.mp4``; where nothing can render, say so in one line and go on."""
        from daft_rl.run.video import offscreen_gl, record

        try:
            offscreen_gl()
            env = domain.make("rgb_array")
            record(model, env, self.folder / f"{name}.mp4", self.cfg.render_steps, self.cfg.evaluation.seed)
        except Exception as error:  # whatever an environment raises, the results are written
            print(f"render: no {name}.mp4. {error}", file=sys.stderr)

    def learn(self, model: BaseAlgorithm, callbacks: list[BaseCallback]) -> None:
        """Learn with TensorBoard files in the run folder, which are closed with the workspace."""
        env = model.get_env()
        assert env is not None
        env.seed(self.cfg.seed)
        logger = configure(str(self.folder / "tensorboard"), ["tensorboard"])
        self._stack.callback(logger.close)
        model.set_logger(logger)
        model.learn(self.cfg.total_timesteps, callback=callbacks, progress_bar=self.cfg.progress_bar)
