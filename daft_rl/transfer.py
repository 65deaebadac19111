"""``python -m daft_rl.transfer env=Ant-shifted``: move a pretrained policy to a shifted environment.

:func:`run` is the recipe: load the source and measure it, adapt it to the target, fine-tune it, measure it again. The
module can be called: ``daft_rl.transfer(...)`` is :func:`transfer`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daft_rl.archives import find_agent
from daft_rl.arguments import DEFAULT_ENV, DEFAULT_METHOD, read_arguments, read_resumed
from daft_rl.callable_module import make_callable
from daft_rl.correspondence import CHOICES, read_content
from daft_rl.envs.domain import Domain, read_domains
from daft_rl.envs.user_env import UserEnv
from daft_rl.hyperparameters import check_learning_starts
from daft_rl.method import Method
from daft_rl.outputs import nothing_twice, say, tell
from daft_rl.settings import TransferSettings

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.logger import Logger

    from daft_rl.run.listeners import Listeners, UserCallback
    from daft_rl.run.results import TransferResult
    from daft_rl.run.run import Run

# PyTorch takes seconds to import. The functions below import what needs it, so that mistakes are reported at once.

__all__ = ["transfer"]

CRITICIZED = 4
"""Environments in which a critic is compared with returns, where a file does not tell the scale of rewards."""


def run(
    settings: TransferSettings,
    domains: Mapping[str, Domain] | None = None,
    agent: Path | BaseAlgorithm | None = None,
    zero_shot_cache: Path | None = None,
    listeners: Listeners | None = None,
) -> TransferResult:
    """Transfer one agent.

    :param settings: everything about the run
    :param domains: ``target``, maybe ``source``, and others to play in before and after, in place of the settings'
    :param agent: the source policy, in place of the settings'
    :param zero_shot_cache: a folder in which the runs of a grid share zero-shot returns, which are the same for all
    :param listeners: the user's own callbacks and outputs
    :return: what is also written to ``results.json`` in the run folder
    :raises DaftError: a setting names something that does not exist or does not fit
    """
    domains = domains or read_domains(vars(settings.env), settings.evaluation.elsewhere)
    agent = agent or find_agent(domains.get("source", domains["target"]).name, settings.algo.name, settings.agent.path)
    loaded = agent if isinstance(agent, Path) else type(agent).__name__
    tell(f"To {domains['target'].name} by {_told(settings.method)}. Loading {loaded}.", settings.progress_bar)
    if settings.method.learns:  # before simulators start; an archive's own number is looked at when it is loaded
        own = getattr(agent, "learning_starts", 0) if settings.algo.most_learning_starts is None else 0
        check_learning_starts(settings.algo.hyperparameters.get("learning_starts", own), settings.total_timesteps)
    settings = _resolve(settings, domains["target"])

    from daft_rl.run.identity import Identity
    from daft_rl.run.run import Run

    # an environment may change the working directory
    there, settings = agent.absolute() if isinstance(agent, Path) else agent, _with_files_found(settings)
    identity = Identity.of(there, vecnormalize=settings.agent.vecnormalize)
    with Run(settings, identity, listeners) as current:
        load = partial(load_and_play, domains=domains, agent=there, cache=zero_shot_cache)
        adapt = partial(adapt_to_target, agent=there)
        chosen = settings
        with nothing_twice():
            if settings.method.race is not None:
                from daft_rl.run.race import hold_race

                chosen = hold_race(current, settings, identity, load, adapt)
            domains = load(current, chosen)
            adapt(current, chosen)
        if chosen.method.learns:
            current.save_start()
            current.learn()
            if settings.method.race is not None and settings.method.race.best_on_the_way:
                from daft_rl.run.ending import end_with_the_better

                end_with_the_better(current, settings.method.race, domains)
        result = measure_and_save(current, settings, domains, agent)
        current.finish()
        if settings.render:
            _render(current, chosen, domains)
    return result


def _told(method: Method) -> str:
    arms = ", ".join(arm.name for arm in method.arms)
    return method.name if method.race is None else f"{method.name}, which chooses from {arms}"


def load_and_play(
    current: Run,
    settings: TransferSettings,
    domains: Mapping[str, Domain],
    agent: Path | BaseAlgorithm,
    cache: Path | None,
) -> dict[str, Domain]:
    """Load the source with the target as its environment, and play the zero-shot episodes.

    :return: the domains in which the agent can play
    """
    from daft_rl.archives.kept_names import keep_names
    from daft_rl.finetune import find_input_range
    from daft_rl.run.agents import check_learning_steps, load_source
    from daft_rl.run.bodies import between_bodies, find_correspondence, see_as_target
    from daft_rl.run.cache import cached_returns
    from daft_rl.run.new_entries import measure_new_entries

    given = settings.agent
    learning_env = current.learning_env(domains["target"], agent)
    made = learning_env.unwrapped  # without vec_wrappers
    actual = made.observation_space, made.action_space
    found = find_correspondence(given.correspondence, domains, agent, given.trust, actual)
    correspondence = None if found is None or found.is_identity else found
    if correspondence is not None:
        say(f"Another body: {correspondence.describe()}")
    current.model, current.statistics = load_source(
        settings,
        agent,
        learning_env,
        current.folder,
        lambda model: current.environments.opened(domains["target"], CRITICIZED, model),
        correspondence,
    )
    if found is not None:
        keep_names(current.model, found.target_names)
    if settings.method.learns:
        check_learning_steps(current.model, settings.total_timesteps)
    if settings.method.realign is not None:
        find_input_range(current.model, settings.method.realign)  # refuses before anything is played
    if correspondence is not None:
        with current.environments.opened(domains["target"], CRITICIZED, current.model) as venv:
            measure_new_entries(current.model, correspondence, venv, settings.seed)
    current.is_another_body = correspondence is not None
    between = between_bodies(found, given.correspondence, domains, agent, given.trust)
    domains = see_as_target(domains, current.model, between)
    evaluator = current.open_evaluator(dict(domains), _during(domains))
    with current.profile("evaluation"):
        current.start_zero_shot(lambda: cached_returns(cache, settings, agent, domains, evaluator.play))
    return dict(domains)


def adapt_to_target(current: Run, settings: TransferSettings, agent: Path | BaseAlgorithm) -> None:
    """Visit the target, insert or convert BatchNorm, group the optimizer's parameters; and set up monitoring."""
    from daft_rl.finetune import HELD_OUT_SEED, adapt
    from daft_rl.policy import Distortion
    from daft_rl.rollout.evaluation import visit
    from daft_rl.run.monitoring import Monitoring
    from daft_rl.run.source_statistics import warn_of_normalized_inputs

    steps = settings.calibration
    where = current.visited("target")
    tell(f"Visiting {steps.steps} states of the target.", settings.progress_bar and settings.method.learns)
    adaptation = current.adaptation = adapt(
        current.model,
        settings.method,
        env=where,
        seed=settings.seed,
        calibration_steps=steps.steps,
        held_out_steps=steps.held_out,
        head=settings.agent.head,
        critic=settings.agent.critic,
        insert_batchnorm=settings.agent.insert_batchnorm,
        actor_scale=settings.algo.actor_scale,
        adaptive_kl=settings.algo.adaptive_kl,
        kernels=settings.kernels,
        profile=current.profile,
    )
    if settings.method.keep_source and adaptation.realigned is not None:
        current.evaluator.act_at_home(adaptation.realigned.offset)
    if adaptation.distortion is not None and not current.is_another_body:
        seen = adaptation.distortion.observations
        warn_of_normalized_inputs(agent, settings.agent, current.model, seen, where.num_envs)
    envs = current.evaluator.open_envs
    if "source" in envs:
        with current.profile("evaluation"):
            held_out = visit(current.model, envs["source"], steps.held_out, HELD_OUT_SEED + settings.seed)
            current.distortion_on_source = Distortion(adaptation.tuner.anatomy, *held_out)
    # the first point of the curve is played again unless the zero-shot episodes are of this very policy
    played = settings.evaluation.episodes >= settings.evaluation.episodes_during
    same = not settings.method.changes_function and adaptation.realigned is None
    current.monitoring = Monitoring(
        envs,
        settings.evaluation,
        current.folder / "best.zip",
        current.profile,
        current.evaluator.start,
        adaptation.distortion,
        adaptation.drift,
        current.zero_shot if same and played else None,
        current.axis,
    )


def measure_and_save(
    current: Run,
    settings: TransferSettings,
    domains: Mapping[str, Domain],
    agent: Path | BaseAlgorithm,
) -> TransferResult:
    """Play the final episodes, save the agent and ``results.json``.

    :param settings: of the run; if its method is a race, those of ``current`` are the winner's
    """
    from daft_rl.archives import save_agent
    from daft_rl.run.fingerprints import fingerprint_method, fingerprint_settings
    from daft_rl.run.results import TransferResult, machine

    current.check_folder()
    adaptation, method = current.adaptation, current.settings.method
    tell("Playing after learning.", settings.progress_bar and method.learns)
    assert adaptation is not None
    assert current.zero_shot is not None
    with current.profile("evaluation"):
        converted = method.conversion != "none"
        changed = method.learns or adaptation.inserted or adaptation.realigned or converted or method.initializes
        final = current.evaluator.play(domains) if changed else current.zero_shot.result()
        current.monitoring.finish()
        distortion = adaptation.distortion.measure() if adaptation.distortion else {}
        on_source = current.distortion_on_source.measure() if current.distortion_on_source else {}
    adaptation.detach()
    save_agent(current.model, current.folder / "final.zip")
    if method.keep_source and adaptation.realigned and adaptation.realigned.moved:
        with adaptation.at_home():
            save_agent(current.model, current.folder / "final_at_home.zip", prefix="final_at_home_")
    result = TransferResult(
        task=domains["target"].name,
        source=str(agent) if isinstance(agent, Path) else type(agent).__name__,
        method=settings.method.name,
        algo=settings.algo.name,
        seed=settings.seed,
        timesteps=current.axis(current.model.num_timesteps) if method.learns else 0,
        wall_seconds=current.seconds,
        seconds_by_activity=current.seconds_by_activity(),
        seconds_in_background=current.seconds_in_background,
        shift=domains["target"].changes,
        zero_shot=current.zero_shot.result(),
        final=final,
        statistics=None if current.statistics is None else vars(current.statistics),
        realigned=adaptation.realigned.as_dict() if adaptation.realigned else None,
        race=None if current.race is None else current.race.as_dict(),
        curve=current.monitoring.curve,
        distortion=distortion,
        distortion_on_source=on_source,
        settings_fingerprint=fingerprint_settings(settings, without=("method", "seed")),
        method_fingerprint=fingerprint_method(settings.method),
        machine=machine(),
        folder=current.folder,
    )
    result.save()
    return result


def _during(domains: Mapping[str, Domain]) -> dict[str, Domain]:
    """Where the policy plays during learning."""
    return {role: domain for role, domain in domains.items() if role in ("target", "source")}


def _resolve(settings: TransferSettings, target: Domain) -> TransferSettings:
    """The settings with what the method leaves to the algorithm, and with the engine that learns fastest."""
    from daft_rl.run.agents import algorithm_entry
    from daft_rl.run.engine import choose_engine

    algorithm = algorithm_entry(settings.algo.name)
    method = settings.method.resolve(algorithm.bn_mode, algorithm.scratch_conversion, algorithm.decay)
    return choose_engine(replace(settings, method=method), target)


def _with_files_found(settings: TransferSettings) -> TransferSettings:
    """The settings with what files of the user say, or where they are, whatever the working directory becomes."""
    given = settings.agent
    told: dict[str, Any] = {}
    if given.vecnormalize not in ("auto", "none"):
        told["vecnormalize"] = str(Path(given.vecnormalize).absolute())
    if isinstance(given.correspondence, str) and given.correspondence not in CHOICES:
        told["correspondence"] = read_content(given.correspondence)
    return replace(settings, agent=replace(given, **told)) if told else settings


def _render(current: Run, settings: TransferSettings, domains: Mapping[str, Domain]) -> None:
    """Write ``target.mp4`` and ``source.mp4``. If nothing can render, say so in one line and go on."""
    from daft_rl.run.video import offscreen_gl, record

    assert current.adaptation is not None
    at_home = current.settings.method.keep_source
    for role, domain in _during(domains).items():
        path = current.folder / f"{role}.mp4"
        try:
            offscreen_gl()
            env = domain.make("rgb_array")
            with current.adaptation.at_home() if at_home and role != "target" else nullcontext():
                record(current.model, env, path, settings.render_steps, settings.evaluation.seed)
        except Exception as error:  # an environment may raise anything, and the results are written
            print(f"render: no {path.name}. {error}", file=sys.stderr)


def transfer(
    env: str | UserEnv = DEFAULT_ENV,
    method: str | Method | Mapping[str, Any] = DEFAULT_METHOD,
    source: str | Path | BaseAlgorithm | None = None,
    *,
    total_timesteps: int | None = None,
    seed: int | None = None,
    output_dir: str | Path | None = None,
    algo: str | None = None,
    shift: str | Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    source_env: UserEnv | None = None,
    resume: str | Path | None = None,
    callback: UserCallback | Sequence[UserCallback] | None = None,
    logger: Logger | None = None,
) -> TransferResult:
    """Transfer one agent from Python. The command line does the same with the same settings.

    :param env: the target task, such as ``"HalfCheetah-shifted"``, or an id of Gymnasium; or your own environment, or a
        function that makes one (needed to play several at once if the environment cannot be copied)
    :param method: the name of a shipped method (:func:`daft_rl.methods`), plain data, or a ``Method``; ``"auto"`` plays
        a few episodes and chooses one
    :param source: an SB3 archive, the name of a shipped source, or an agent, which stays as it is; ``None`` takes the
        shipped source of task and algorithm
    :param total_timesteps: target steps to learn from (200 thousand)
    :param seed: of everything random (0)
    :param output_dir: the run folder; ``None`` makes one under ``runs/``
    :param algo: a name in ``configs/algo``; ``None`` takes the agent's algorithm, or the task's default
    :param shift: a level's name (:func:`daft_rl.levels`) or a mapping of fields; ``None`` keeps the task's default
    :param settings: further settings of :class:`~daft_rl.settings.TransferSettings` by dotted names, such as
        ``{"num_envs": 4, "evaluation.episodes": 5, "algo.settings.n_steps": 64}``
    :param source_env: where the agent comes from, if ``env`` is your own; without it, returns on the source are not
        measured
    :param resume: the folder of a run that was stopped, which goes on with its own settings. Of the other arguments it
        takes only environments, agents, callbacks and loggers, which have to be passed again, and ``source`` if the
        archive lies elsewhere now
    :param callback: a callback of SB3, or a list of them, beside daft_rl's own while the target is learnt. In a race
        the winner calls it, from the rung on. ``False`` ends learning, and the run goes on to its final episodes.
        ``on_training_start`` of a run that goes on sees the agent as it began, not yet as in its checkpoint
    :param logger: a logger of SB3, such as ``configure("logs", ["csv"])``: its output formats write the same scalars
        as the run's TensorBoard files at the same steps, and stay open. What else it can do is not used
    :return: returns before and after, the learning curve, and the run folder
    :raises DaftError: something does not exist or does not fit
    """
    listeners = _listeners(callback, logger)
    given: dict[str, Any] = {"total_timesteps": total_timesteps, "seed": seed, "output_dir": output_dir}
    given |= {"algo": algo, "shift": shift}
    given = {name: value for name, value in given.items() if value is not None}
    further = dict(settings or {})
    if resume is None:
        asked = read_arguments(env, method, source, source_env, further, **given)
    else:
        asked = read_resumed(resume, env, method, source, source_env, given | further)
    return run(asked.settings, asked.domains, asked.agent, listeners=listeners)


def _listeners(callback: Any, logger: Any) -> Listeners | None:
    if callback is None and logger is None:
        return None
    from daft_rl.run.listeners import Listeners

    return Listeners.of(callback, logger)


def main(settings: TransferSettings) -> None:
    """Run, and print the results."""
    run(settings).print()


make_callable(__name__, transfer)


if __name__ == "__main__":
    from daft_rl.cli import run_command
    from daft_rl.resume import resume_command, stoppable

    with stoppable("daft_rl.transfer"):
        if not resume_command(TransferSettings, main):
            run_command("transfer", main)
