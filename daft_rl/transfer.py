"""``python -m daft_rl.transfer env=Ant-shifted``: move a pretrained policy to a shifted environment.

Load the source, measure it, convert its BatchNorm layers to the target, fine-tune by the method's
settings, measure again. :func:`run` is the recipe.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daft_rl.archives.sources import find_agent
from daft_rl.cli import apply_overrides, compose_config, plain, run_command
from daft_rl.envs.domain import Domain, Own, own_domains, read_domains
from daft_rl.errors import AgentError, TaskError
from daft_rl.method import Method
from daft_rl.run.fingerprints import digest_method, digest_settings

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from stable_baselines3.common.base_class import BaseAlgorithm

    from daft_rl.rollout.evaluation import Returns
    from daft_rl.run.results import TransferResult

__all__ = ["run", "transfer"]

HELD_OUT = 20_000
"""Episodes from here on are held out: learning begins at the seed of a run, evaluation at 10 000."""


def run(
    cfg: DictConfig,
    domains: Mapping[str, Domain] | None = None,
    agent: Path | BaseAlgorithm | None = None,
    played: Path | None = None,
) -> TransferResult:
    """Transfer one agent, as the configuration says (``configs/transfer.yaml``).

    :param cfg: the composed configuration
    :param domains: ``target``, maybe ``source``, and others to play in afterwards, in place of the configuration's
    :param agent: the source policy, in place of the configuration's
    :param played: a folder in which runs of one grid share the zero-shot returns, which are the same for all
    :return: what is also written to ``results.json`` in the run folder
    :raises DaftError: something in the configuration does not exist or does not fit
    """
    started = time.perf_counter()
    domains = domains or read_domains(plain(cfg.env), cfg.evaluation.elsewhere)
    target = domains["target"]
    method = Method.from_dict(plain(cfg.method))
    agent = agent or find_agent(domains.get("source", target).name, cfg.algo.name, cfg.agent.path)

    # PyTorch takes seconds to import: what is wrong above is told before
    from daft_rl.finetune.realignment import known_range, realign
    from daft_rl.finetune.tuner import Reconversion, Tuner
    from daft_rl.policy.anatomy import Networks
    from daft_rl.policy.distortion import Distortion, StatisticsDrift
    from daft_rl.policy.insertion import insert_batchnorm, wants_batchnorm
    from daft_rl.rollout.evaluation import visit
    from daft_rl.run.cache import recall
    from daft_rl.run.folder import Workspace, save_agent
    from daft_rl.run.monitoring import Monitoring
    from daft_rl.run.results import TransferResult, machine

    with Workspace(cfg) as work:
        training = work.env(target, cfg.num_envs)
        model = work.load(agent, work.monitored(training, target, agent))
        if method.learns:
            work.check_steps(model)
        if method.realign is not None:
            known_range(model, method.realign)  # told before anything is played
        if cfg.agent.adapt_spaces:
            domains = work.fitting(domains, model)
        asked = cfg.evaluation
        watched = {role: domain for role, domain in domains.items() if role in ("target", "source")}
        envs = {role: work.env(domain, asked.episodes_during) for role, domain in watched.items()}

        def play(where: Mapping[str, Domain]) -> dict[str, Returns]:
            return work.play(model, where, envs)

        begin = work.beside(model, domains.values(), envs.values())
        with work.phases("evaluation"):
            zero_shot = begin(lambda: recall(played, cfg, agent, domains, play))

        with work.phases("calibration"):
            inserted = wants_batchnorm(model, method, cfg.agent.insert_batchnorm)
            if inserted or method.realign is None:
                visited = visit(model, training, cfg.calibration.steps, cfg.seed + 1)
            if inserted:
                insert_batchnorm(model, Networks(model.policy).batches(*visited))
            drift = StatisticsDrift(model.policy)
            tuner = Tuner(model, method, cfg.agent.head, cfg.agent.critic, work.phases, cfg.algo.actor_scale)
            realigned = None
            if method.realign is not None:
                realigned = realign(model, training, cfg.calibration.steps, cfg.seed + 1, method.realign)
            if method.from_scratch or realigned:  # another policy visits other states
                visited = visit(model, training, cfg.calibration.steps, cfg.seed + 1)
            if method.conversion != "none":
                tuner.convert(*visited, method.preserve_function)
        with work.phases("evaluation"):
            held_out = cfg.calibration.held_out, HELD_OUT + cfg.seed
            distortion = Distortion(tuner.anatomy, *visit(model, training, *held_out))
            retained = Distortion(tuner.anatomy, *visit(model, envs["source"], *held_out)) if "source" in envs else None

        another = realigned or method.changes_function or asked.episodes < asked.episodes_during
        known = None if another else zero_shot
        monitoring = Monitoring(envs, asked, work.folder / "best.zip", work.phases, begin, distortion, drift, known)
        if method.learns:
            work.learn(model, [Reconversion(tuner, cfg.calibration.steps), monitoring])

        with work.phases("evaluation"):
            changed = method.learns or inserted or realigned or method.conversion != "none" or method.initializes
            final = play(domains) if changed else zero_shot.result()
            monitoring.finish()
            layers, layers_on_source = distortion.measure(), retained.measure() if retained else {}
        tuner.detach()
        save_agent(model, work.folder / "final.zip")
        result = TransferResult(
            task=target.name,
            source=str(agent) if isinstance(agent, Path) else type(agent).__name__,
            method=method.name,
            algo=cfg.algo.name,
            seed=cfg.seed,
            timesteps=model.num_timesteps if method.learns else 0,
            wall_seconds=time.perf_counter() - started,
            seconds_by_activity=work.phases.as_dict(),
            seconds_in_background=work.seconds_beside,
            shift=target.changes,
            zero_shot=zero_shot.result(),
            final=final,
            realigned=realigned.as_dict() if realigned else None,
            curve=monitoring.curve,
            distortion=layers,
            distortion_on_source=layers_on_source,
            settings_fingerprint=digest_settings(cfg, without=("method", "seed")),
            method_fingerprint=digest_method(plain(cfg.method)),
            machine=machine(),
            folder=work.folder,
        )
        result.save()
        if cfg.render:
            for role, domain in watched.items():
                work.render(model, role, domain)
    return result


def transfer(
    env: str | Own = "Ant-shifted",
    method: str | Method | Mapping[str, Any] = "daft",
    source: str | Path | BaseAlgorithm | None = None,
    total_timesteps: int | None = None,
    seed: int = 0,
    output_dir: str | Path | None = None,
    algo: str | None = None,
    shift: str | Mapping[str, Any] | None = None,
    overrides: list[str] | None = None,
    source_env: Own | None = None,
) -> TransferResult:
    """Transfer one agent, from Python. The command line does the same with the same settings.

    :param env: the target task, such as ``"HalfCheetah-shifted"``; or your own environment, or a function that makes
        one (needed to play several at once where it cannot be copied)
    :param method: a name in ``configs/method``, or settings of your own
    :param source: an SB3 archive, the name of a shipped source, or an agent, which is left as it is; ``None`` takes
        the shipped one of task and algorithm
    :param total_timesteps: target steps; ``None`` keeps the default of ``configs/transfer.yaml``
    :param seed: of everything random
    :param output_dir: the run folder; ``None`` makes one under ``runs/``
    :param algo: a name in ``configs/algo``; ``None`` takes the agent's algorithm, or the task's default
    :param shift: a level's name or a mapping of fields; ``None`` keeps the task's default shift
    :param overrides: further settings as on the command line, ``["num_envs=4", "algo.settings.n_steps=64"]``; they win
    :param source_env: where the agent comes from, if ``env`` is an environment or a function; without it, returns on
        the source are not measured
    :return: returns before and after, the learning curve, and the run folder
    :raises DaftError: something does not exist or does not fit
    """
    from omegaconf import open_dict

    named = method if isinstance(method, str) else "daft"
    chosen = [f"method={named}", f"seed={seed}"]
    agent = None if source is None or isinstance(source, str | Path) else source
    domains = None
    if isinstance(env, str):
        chosen.append(f"env={env}")
        if source_env is not None:
            raise TaskError(f"source_env belongs to an environment of your own; the source of env={env!r} is known.")
    else:
        domains = own_domains(env, source_env)
        of_tasks = [item for item in overrides or [] if item.startswith(("env", "evaluation.elsewhere"))]
        ignored = [item for item in of_tasks if not item.startswith("env.cost_")]
        if shift is not None or ignored:
            raise TaskError(
                f"{', '.join(ignored) or f'shift={shift}'}: an environment of your own is taken as it is. Put shifts "
                "and wrappers into what you pass, or register it and use env='gymnasium' with env.id=...."
            )
        chosen += ["env=gymnasium", f"env.id='{domains['target'].name}'"]
        if source is None:
            raise AgentError("For an environment of your own no source is shipped: pass source=...")
    if agent is not None:
        algo = algo or _algorithm(agent)
    elif source is not None:
        quoted = str(source).replace("'", "\\'")
        chosen.append(f"agent.path='{quoted}'")
    if algo is not None:
        chosen.append(f"algo={algo}")
    if total_timesteps is not None:
        chosen.append(f"total_timesteps={total_timesteps}")
    if isinstance(shift, str):
        chosen.append(f"env.shift={shift}")
    if output_dir is None:
        name = domains["target"].name if domains else env
        called = named
        if not isinstance(method, str):
            called = method.name if isinstance(method, Method) else method.get("name", "own")
        output_dir = Path("runs") / str(name) / called / f"seed-{seed}" / time.strftime("%Y-%m-%d_%H-%M-%S")
    overrides = overrides or []
    given = {item.partition("=")[0] for item in overrides}
    cfg = compose_config("transfer", [*chosen, *overrides])
    with open_dict(cfg):
        if "output_dir" not in given:
            cfg.output_dir = str(output_dir)
        replaced = []
        if isinstance(shift, Mapping) and "env.shift" not in given:
            cfg.env.shift = dict(shift)
            replaced.append("env.shift.")
        if not isinstance(method, str) and "method" not in given:
            cfg.method = method.as_dict() if isinstance(method, Method) else dict(method)
            replaced.append("method.")
        apply_overrides(cfg, [item for item in overrides if item.lstrip("+").startswith(tuple(replaced))])
    return run(cfg, domains, agent)


def _algorithm(agent: BaseAlgorithm) -> str:
    """Its name in ``configs/algo``: that of SB3's class, also of an agent of a class derived from it."""
    from daft_rl.archives.container import SUPPORTED

    names = [kind.__name__ for kind in type(agent).__mro__]
    return next((name for name in names if name in SUPPORTED), names[0]).lower()


def main(cfg: DictConfig) -> None:
    """Run, and print what came of it."""
    run(cfg).print()


if __name__ == "__main__":
    run_command("transfer", main)
