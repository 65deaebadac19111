"""Safety-Gymnasium's tasks: their shift, their environments, faster steps, and the import of the package."""

from daft_rl.envs.safety.shift import SafetyShift

__all__ = ["SafetyShift"]
