"""The count of necessary operations, against PyTorch's count of what SB3 computes."""

from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.learner_operations import POLICY_DELAY, operations
from benchmarks.speed.learner_worker import LEARNING_STARTS, MINIBATCHES, make_model


def count_sb3(algorithm: str, batchnorm: bool) -> float:
    """Operations of matrix products per gradient step of SB3."""
    model: Any = make_model("sb3", algorithm, batchnorm)
    model.n_epochs = 1  # of PPO
    model.learn(1 if algorithm == "PPO" else LEARNING_STARTS)
    with FlopCounterMode(display=False) as counter:
        if algorithm == "PPO":
            model.train()
        else:
            model.train(POLICY_DELAY.get(algorithm, 1), 256)
    steps = MINIBATCHES if algorithm == "PPO" else POLICY_DELAY.get(algorithm, 1)
    return counter.get_total_flops() / steps


@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_sb3_computes_what_is_necessary_where_nothing_can_be_left_out(algorithm: str) -> None:
    assert operations(algorithm) == count_sb3(algorithm, False)


@pytest.mark.parametrize(
    ("algorithm", "batchnorm"), [("SAC", False), ("TQC", False), ("TD3", False), ("CrossQ", True), ("CrossQ", False)]
)
def test_sb3_computes_up_to_half_more_where_actors_learn_from_critics(algorithm: str, batchnorm: bool) -> None:
    assert 1.0 < count_sb3(algorithm, batchnorm) / operations(algorithm, batchnorm) < 1.5
