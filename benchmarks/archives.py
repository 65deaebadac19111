"""What archives load: the tables in ``docs/policies.md``, made by saving agents and loading them.

    python -m benchmarks.archives

Run it from the top of the repository; it rewrites the tables. A test holds them against what happens.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl.archives import load_agent
from daft_rl.errors import AgentError, DaftWarning
from tests.archives.helpers import (
    ACTION,
    CHOICE,
    IMAGE,
    MIXED,
    VECTOR,
    Spaces,
    assert_same,
    before_torch_1_6,
    edit,
    make,
    on_old_gym,
    save,
)
from tests.archives.test_load import MyActivation, MyExtractor, MyPolicy

PAGE = Path("docs/policies.md")
START, END = "<!-- tables of benchmarks/archives.py -->\n", "<!-- end of the tables -->\n"
KINDS: tuple[Any, ...] = (PPO, A2C, TRPO, SAC, TD3, DDPG, TQC, CrossQ, DQN, QRDQN, MaskablePPO, RecurrentPPO, ARS)
OBSERVATIONS: dict[str, tuple[spaces.Space[Any], str]] = {
    "vectors": (VECTOR, "Mlp"),
    "images": (IMAGE, "Cnn"),
    "dictionaries": (MIXED, "MultiInput"),
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "Box": ACTION,
    "Discrete": CHOICE,
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
}
YOUNGER = ("CrossQ",)
"""Algorithms that came after SB3 1.x."""
AGES: dict[str, Callable[[Path], Path]] = {"SB3 1.x, old gym": on_old_gym, "PyTorch before 1.6": before_torch_1_6}


def build(kind: Any, observation: spaces.Space[Any], action: spaces.Space[Any], policy: str) -> Any:
    """A small agent; ``None`` if the algorithm does not take such spaces."""
    lstm = "Lstm" if kind is RecurrentPPO else ""
    try:
        if kind is ARS:
            return ARS(f"{policy}Policy", Spaces(observation, action), device="cpu")
        return make(kind, observation, action, f"{policy}{lstm}Policy")
    except Exception:  # whatever SB3 raises
        return None


def outcome(model: Any, age: Callable[[Path], Path] | None = None) -> str:
    """What loading its archive gives; a dash if there can be no such archive."""
    if model is None:
        return "-"
    with tempfile.TemporaryDirectory() as folder:
        path = save(model, Path(folder))
        path = age(path) if age else path
        try:
            loaded = load_agent(path, env=Spaces(model.observation_space, model.action_space), device="cpu")
        except AgentError:
            return "refused"
        assert_same(model, loaded)
        return "works"


def row(kind: Any) -> list[str]:
    """One algorithm: observations, actions, ages."""
    actions = {name: outcome(build(kind, VECTOR, space, "Mlp")) for name, space in ACTIONS.items()}
    taken = [name for name, result in actions.items() if result != "-"]
    action = ACTIONS[taken[0]]
    seen = [outcome(build(kind, space, action, policy)) for space, policy in OBSERVATIONS.values()]
    working = ", ".join(name for name in taken if actions[name] == "works") or "refused"
    old = [outcome(build(kind, VECTOR, action, "Mlp"), age) for age in AGES.values()]
    return [kind.__name__, *seen, working, *(["-"] * len(old) if kind.__name__ in YOUNGER else old)]


def hindsight() -> Any:
    """An agent that learns from new goals."""
    return SAC(
        "MultiInputPolicy", BitFlippingEnv(4, continuous=True), replay_buffer_class=HerReplayBuffer, device="cpu",
        replay_buffer_kwargs={"n_sampled_goal": 3}, buffer_size=100, learning_starts=10,
    )  # fmt: skip


def _noise(sb3: type[Any]) -> VectorizedActionNoise:
    return VectorizedActionNoise(sb3(np.zeros(2), 0.3 * np.ones(2)), 1)


def _net(**kwargs: Any) -> dict[str, Any]:
    return {"policy_kwargs": {"net_arch": [6], **kwargs}}


SMALL: dict[str, Any] = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
SHARED_LAYER = "mlp_extractor.shared_net.0.weight"


def _as_it_is(path: Path) -> Path:
    return path


def _share(path: Path) -> Path:
    return edit(path, lambda state: state.update({SHARED_LAYER: state["log_std"]}), "policy.pth")


def _diverge(path: Path) -> Path:
    return edit(path, lambda state: state.update(log_std=state["log_std"] * np.nan), "policy.pth")


def _normalize(path: Path) -> Path:
    VecNormalize(DummyVecEnv([Spaces])).save(str(path.with_name("vecnormalize.pkl")))
    return path


def _policy_alone(path: Path) -> Path:
    PPO.load(path).policy.save(str(path))
    return path


def _as_sbx(path: Path) -> Path:
    return edit(path, lambda data: data["policy_class"].update(__module__="sbx.sac.policies"))


CONTENTS: dict[str, tuple[Callable[[], Any], Callable[[Path], Path]]] = {
    "a schedule that is a function": (lambda: make(PPO, clip_range=lambda progress: 0.1), _as_it_is),
    "Gaussian noise": (lambda: make(DDPG, action_noise=_noise(NormalActionNoise)), _as_it_is),
    "noise with a memory": (lambda: make(DDPG, action_noise=_noise(OrnsteinUhlenbeckActionNoise)), _as_it_is),
    "`HerReplayBuffer`": (hindsight, _as_it_is),
    "`optimize_memory_usage`": (lambda: make(DQN, action_space=CHOICE, **SMALL), _as_it_is),
    "an activation of your own": (lambda: make(PPO, **_net(activation_fn=MyActivation)), _as_it_is),
    "an extractor of your own": (lambda: make(PPO, **_net(features_extractor_class=MyExtractor)), _as_it_is),
    "a policy class of your own": (lambda: make(PPO, policy=MyPolicy), _as_it_is),
    "layers that actor and critic share (SB3 before 1.8)": (lambda: make(PPO), _share),
    "weights that are not finite": (lambda: make(PPO), _diverge),
    "`vecnormalize.pkl` beside it": (lambda: make(PPO), _normalize),
    "a policy alone (`policy.save`)": (lambda: make(PPO), _policy_alone),
    "an agent of sbx": (lambda: make(SAC), _as_sbx),
}
"""What an archive may hold -> an agent, and a change of its archive."""


def message(model: Any, change: Callable[[Path], Path]) -> str:
    """What loading says: the error, the warnings, or that it works."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        path = change(save(model, Path(folder)))
        env = BitFlippingEnv(4, continuous=True) if model.policy_class.__name__.startswith("MultiInput") else None
        try:
            load_agent(path, env=env or Spaces(model.observation_space, model.action_space), device="cpu")
            texts = [str(one.message) for one in told if isinstance(one.message, DaftWarning)]
            texts = [f"warns: {text}" for text in texts if "train_freq=" not in text or "noise" in text]
        except AgentError as error:
            texts = [f"refused: {error}"]
    text = " ".join(texts).replace(str(path), "agent.zip") or "works"
    text = re.sub(r"train_freq=\d for a pickled [\w.]+, | train_freq=\.\.\.,", "", text)
    return text.replace("<", "\\<").replace("|", "\\|")


def tables() -> str:
    """Both tables, in Markdown."""
    warnings.simplefilter("ignore")
    head = ["algorithm", *OBSERVATIONS, "actions", *AGES]
    lines = [head, ["---"] * len(head), *map(row, KINDS)]
    contents = [["the archive holds", "loading"], ["---"] * 2]
    contents += [[name, message(make_agent(), change)] for name, (make_agent, change) in CONTENTS.items()]
    return "\n\n".join("\n".join(f"| {' | '.join(cells)} |" for cells in table) for table in (lines, contents)) + "\n"


def rewrite() -> None:
    """Put the tables of today into the page."""
    before, _, rest = PAGE.read_text("utf-8").partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n{tables()}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    rewrite()
