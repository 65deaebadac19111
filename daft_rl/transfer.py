"""``python -m daft_rl.transfer env=Ant-shifted``: move a pretrained policy to a shifted environment.

Load the source, measure it, convert its BatchNorm layers to the target, fine-tune by the method's
settings, measure again. :func:`run` is the recipe.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daft_rl.cli import compose_config, plain, run_command
from daft_rl.envs import read_shift
from daft_rl.envs.packages import check_installed
from daft_rl.envs.tasks import get_task, source_of
from daft_rl.methods import Method
from daft_rl.sources import find_agent

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from daft_rl.results import TransferResult

__all__ = ["run", "transfer"]


def run(cfg: DictConfig) -> TransferResult:
    """Transfer one agent, as the configuration says (``configs/transfer.yaml``).

    :return: what is also written to ``results.json`` in the run folder
    :raises DaftError: something in the configuration does not exist or does not fit
    """
    started = time.perf_counter()
    target, source = cfg.env.name, source_of(cfg.env.name)
    check_installed(get_task(target).package)
    shift = read_shift(target, plain(cfg.env.shift))
    method = Method.from_dict(plain(cfg.method))
    agent = find_agent(source, cfg.algo.name, cfg.agent)

    # PyTorch takes seconds to import: what is wrong above is told before
    from daft_rl.distortion import Distortion, StatisticsDrift
    from daft_rl.evaluation import evaluate, visit
    from daft_rl.monitoring import Monitoring
    from daft_rl.results import TransferResult
    from daft_rl.running import Workspace, save_agent
    from daft_rl.tuning import Reconversion, Tuner

    with Workspace(cfg) as work:
        training = work.env(target, shift, cfg.num_envs)
        model = work.load(agent, work.monitored(training, agent))
        envs = {
            "target": work.env(target, shift, cfg.evaluation.episodes_during),
            "source": work.env(source, None, cfg.evaluation.episodes_during),
        }
        zero_shot = {
            name: evaluate(model, env, cfg.evaluation.episodes, cfg.evaluation.seed) for name, env in envs.items()
        }

        drift = StatisticsDrift(model.policy)
        tuner = Tuner(model, method)
        if method.conversion != "none":
            tuner.convert(*visit(model, training, cfg.calibration.steps, cfg.seed + 1), method.preserve_function)
        distortion = Distortion(tuner.anatomy, *visit(model, training, cfg.calibration.held_out, cfg.seed + 2))

        monitoring = Monitoring(envs, cfg.evaluation, work.folder / "best.zip", distortion, drift)
        if method.learns:
            work.learn(model, [Reconversion(tuner, cfg.calibration.steps), monitoring])

        final = {name: evaluate(model, env, cfg.evaluation.episodes, cfg.evaluation.seed) for name, env in envs.items()}
        layers = distortion.measure()
        tuner.detach()
        save_agent(model, work.folder / "final.zip")
        if cfg.render:
            work.render(model, "target", target, shift)
            work.render(model, "source", source, None)
        result = TransferResult(
            task=target,
            source=str(agent),
            method=method.name,
            algo=cfg.algo.name,
            seed=cfg.seed,
            timesteps=model.num_timesteps if method.learns else 0,
            wall_seconds=time.perf_counter() - started,
            shift=shift.changes(),
            zero_shot=zero_shot,
            final=final,
            curve=monitoring.curve,
            distortion=layers,
            folder=work.folder,
        )
        result.save()
    return result


def transfer(
    env: str = "Ant-shifted",
    method: str | Method | Mapping[str, Any] = "daft",
    source: str | Path | None = None,
    total_timesteps: int | None = None,
    seed: int = 0,
    output_dir: str | Path | None = None,
    algo: str | None = None,
    shift: str | Mapping[str, Any] | None = None,
    overrides: list[str] | None = None,
) -> TransferResult:
    """Transfer one agent, from Python. The command line does the same with the same settings.

    :param env: the target task, such as ``"HalfCheetah-shifted"``
    :param method: a name in ``configs/method``, or settings of your own
    :param source: an SB3 archive or the name of a shipped source; ``None`` takes the shipped one of task and algorithm
    :param total_timesteps: target steps; ``None`` keeps the default of ``configs/transfer.yaml``
    :param seed: of everything random
    :param output_dir: the run folder; ``None`` makes one under ``runs/``
    :param algo: a name in ``configs/algo``; ``None`` takes the task's default
    :param shift: a level's name or a mapping of fields; ``None`` keeps the task's default shift
    :param overrides: further settings as on the command line, ``["num_envs=4", "algo.settings.n_steps=64"]``
    :return: returns before and after, the learning curve, and the run folder
    :raises DaftError: something does not exist or does not fit
    """
    from omegaconf import open_dict

    named = method if isinstance(method, str) else "daft"
    chosen = [] if algo is None else [f"algo={algo}"]
    cfg = compose_config("transfer", [f"env={env}", f"method={named}", *chosen, *(overrides or [])])
    if output_dir is None:
        output_dir = Path("runs") / env / named / f"seed-{seed}" / time.strftime("%Y-%m-%d_%H-%M-%S")
    with open_dict(cfg):
        cfg.seed, cfg.output_dir = seed, str(output_dir)
        cfg.agent = None if source is None else str(source)
        if total_timesteps is not None:
            cfg.total_timesteps = total_timesteps
        if shift is not None:
            cfg.env.shift = shift if isinstance(shift, str) else dict(shift)
        if not isinstance(method, str):
            cfg.method = method.as_dict() if isinstance(method, Method) else dict(method)
    return run(cfg)


def main(cfg: DictConfig) -> None:
    """Run, and print what came of it."""
    run(cfg).print()


if __name__ == "__main__":
    run_command("transfer", main)
