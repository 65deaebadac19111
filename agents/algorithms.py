"""STUB until the archives branch is merged."""

from types import SimpleNamespace as N

from sb3_contrib import QRDQN, TQC, TRPO, CrossQ
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3

ALGORITHMS = {
    c.__name__: N(
        cls=c,
        name=c.__name__,
        bn_mode="train" if c is CrossQ else "eval",
        scratch_conversion="none" if c is CrossQ else "each_rollout",
        actor_scale=0.1 if c is CrossQ else 1.0,
        line_search=c is TRPO,
    )
    for c in (PPO, A2C, TRPO, SAC, DDPG, TD3, TQC, CrossQ, DQN, QRDQN)
}


def find_algorithm(x):
    c = x if isinstance(x, type) else type(x)
    return next(ALGORITHMS[k.__name__] for k in c.__mro__ if k.__name__ in ALGORITHMS)


Algorithm = N
