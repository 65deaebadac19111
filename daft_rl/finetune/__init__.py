"""Fine-tuning a pretrained agent: :func:`adapt` is the door; a method's settings say what happens."""

from daft_rl.finetune.adapt import Adaptation, adapt
from daft_rl.finetune.realignment import Realignment, find_input_range, realign
from daft_rl.finetune.target import HELD_OUT_SEED
from daft_rl.finetune.tuner import Tuner

__all__ = ["HELD_OUT_SEED", "Adaptation", "Realignment", "Tuner", "adapt", "find_input_range", "realign"]
