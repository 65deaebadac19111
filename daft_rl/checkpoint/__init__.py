"""What a run writes while it learns, to go on after anything: its file format, and the state of an SB3 algorithm."""

from daft_rl.checkpoint.learning import LearningState
from daft_rl.checkpoint.random_numbers import RandomState
from daft_rl.checkpoint.store import CheckpointStore

__all__ = ["CheckpointStore", "LearningState", "RandomState"]
