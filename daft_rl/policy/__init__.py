"""What can be done to a policy: take it apart, insert BatchNorm, fold normalization in, measure how far it moved."""

from daft_rl.policy.anatomy import Anatomy
from daft_rl.policy.distortion import Distortion, StatisticsDrift, linear_cka
from daft_rl.policy.exploration import bound_exploration
from daft_rl.policy.folding import fold_normalization
from daft_rl.policy.insertion import insert_batchnorm, wants_batchnorm
from daft_rl.policy.networks import Networks, Observations, optimizer_settings

__all__ = [
    "Anatomy",
    "Distortion",
    "Networks",
    "Observations",
    "StatisticsDrift",
    "bound_exploration",
    "fold_normalization",
    "insert_batchnorm",
    "linear_cka",
    "optimizer_settings",
    "wants_batchnorm",
]
