"""``python -m daft_rl.pretrain env=Ant algo=ppo``: train a source policy with BatchNorm, as the shipped ones were.

The same mechanism as a transfer: the method ``scratch`` on a fresh agent, with the settings of a recipe
(``configs/recipe/TASK-ALGO.yaml``, or another by ``recipe=NAME``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from daft_rl.cli import plain, run_command
from daft_rl.envs.domain import read_domains
from daft_rl.envs.registry import TASKS, get_task
from daft_rl.errors import ConfigError
from daft_rl.method import Method

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["run"]

SIMULATORS = {"robosuite": ("robosuite",), "safety": ("safety-gymnasium",)}
PACKAGES = ("daft-rl", "torch", "stable-baselines3", "sb3-contrib", "gymnasium", "mujoco", "numpy")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train a source, as the configuration says (``configs/pretrain.yaml``).

    The run folder then holds ``agent.zip``, ``vecnormalize.pkl`` (the reward's scale), and the card of the
    agent, for programs (``card.json``) and for people (``README.md``).

    :param cfg: the composed configuration
    :param overrides: those it was composed with, for the card
    :return: what stands in ``card.json``
    :raises DaftError: something in the configuration does not exist or does not fit
    """
    started = time.perf_counter()
    ignored = [item for item in overrides if item.lstrip("+").startswith("algo.")]
    if ignored:
        raise ConfigError(
            f"{ignored[0]} is for fine-tuning. A source learns as its recipe says: set recipe.settings.NAME=... there."
        )
    task = cfg.env.name
    domain = read_domains(plain(cfg.env))["target"]
    method = Method.from_dict(plain(cfg.method))

    from daft_rl.files import write_json
    from daft_rl.finetune.tuner import Reconversion, Tuner
    from daft_rl.rollout.evaluation import visit
    from daft_rl.run.folder import Workspace, save_agent
    from daft_rl.run.monitoring import Monitoring

    with Workspace(cfg) as work:
        training = work.env(domain, cfg.num_envs)
        model = work.build(work.monitored(training, domain))
        tuner = Tuner(model, method, phases=work.phases)
        if method.conversion != "none":
            tuner.convert(*visit(model, training, cfg.calibration.steps, cfg.seed + 1), method.preserve_function)
        env = work.env(domain, cfg.evaluation.episodes_during)
        begin = work.beside(model, [domain], [env])
        monitoring = Monitoring({"source": env}, cfg.evaluation, work.folder / "best.zip", work.phases, begin)
        work.learn(model, [Reconversion(tuner, cfg.calibration.steps), monitoring])
        monitoring.finish()
        tuner.detach()
        for optimizer in tuner.anatomy.optimizers().values():
            optimizer.state.clear()  # two thirds of an archive, and fine-tuning starts with fresh moments
        returns = work.play(model, {"source": domain}, {"source": env})["source"]
        save_agent(model, work.folder / "agent.zip")
        card = {
            "name": cfg.recipe.name,
            "task": task,
            "shift": domain.changes,
            "algo": cfg.algo.name,
            "seed": cfg.seed,
            "command": " ".join(["python -m daft_rl.pretrain", *overrides]),
            "timesteps": model.num_timesteps,
            "wall_seconds": time.perf_counter() - started,
            "returns": returns.as_dict(),
            "recipe": plain(cfg.recipe),
            "method": method.as_dict(),
            "versions": {name: version(name) for name in (*PACKAGES, *SIMULATORS.get(get_task(task).family, ()))},
            "curve": monitoring.curve,
        }
        write_json(work.folder / "card.json", card)
        (work.folder / "README.md").write_text(card_text(card), encoding="utf-8")
    return card


def card_text(card: dict[str, Any]) -> str:
    """The card of an agent in Markdown.

    :param card: what stands in ``card.json``
    """
    from daft_rl.agents import ALGORITHMS

    returns, recipe, method = card["returns"], card["recipe"], card["method"]
    algorithm = next(entry.name for entry in ALGORITHMS.values() if entry.config == card["algo"])
    settings = "\n".join(f"- `{name}`: {value}" for name, value in (recipe["settings"] | recipe["policy"]).items())
    versions = ", ".join(f"{name} {number}" for name, number in card["versions"].items())
    extractor = recipe["extractor"]
    layers = f"{extractor['hidden']}, {extractor['activation']}" if extractor else f"{recipe['policy']['net_arch']}"
    updates = {"eval": "running statistics", "train": "those of the batch"}[method["bn_mode"]]
    batchnorm = f"running statistics in rollouts, {updates} in updates"
    if method["conversion"] == "each_rollout" and not method["preserve_function"]:
        batchnorm += "; between rollouts they follow\n  an average over the rollouts"
    reward = "rewards were divided by a running scale (`vecnormalize.pkl`; observations are not normalized there)"
    shifted = ", ".join(f"{name} {value}" for name, value in card["shift"].items()) or "nothing shifted"
    cost = f"- cost of an episode: {returns['mean_cost']:.1f}\n" if "mean_cost" in returns else ""
    command = f"python -m daft_rl.transfer env={card['task']}-shifted agent=agent.zip"
    move = f"\nTo move it, here: `{command}`.\n" if card["task"] in TASKS else ""
    return f"""# {card["name"]}

{algorithm} on `{card["task"]}` ({shifted}), BatchNorm on the observation and in every hidden layer of
actor and critic.

    {card["command"]}
{move}
- return over {len(returns["returns"])} deterministic episodes: {returns["mean"]:.1f} (standard deviation
  {returns["std"]:.1f}; lowest {min(returns["returns"]):.1f})
{cost}- seed {card["seed"]}, {card["timesteps"]} steps, {card["wall_seconds"] / 60:.0f} minutes, one run of this recipe,
  its last policy
- hidden layers of actor and of critic: {layers}
- BatchNorm: {batchnorm}
- {reward if recipe["normalize_reward"] else "rewards and observations are not normalized outside the networks"}

Settings, from `configs/recipe/{recipe["name"]}.yaml`, learning rate falling linearly to zero:

{settings}

Versions: {versions}.
"""


def main(cfg: DictConfig) -> None:
    """Train, and print what came of it."""
    card = run(cfg, HydraConfig.get().overrides.task)
    returns = card["returns"]
    print(f"{card['task']} {card['algo']}: return {returns['mean']:.1f} +- {returns['std']:.1f} in {cfg.output_dir}")


if __name__ == "__main__":
    run_command("pretrain", main)
