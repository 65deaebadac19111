"""robosuite's Door and Wipe: their shift, their environments, faster steps, and the import of the package."""

from daft_rl.envs.robosuite.shift import RobosuiteShift

__all__ = ["RobosuiteShift"]
