"""Collecting experience from worlds on the device of the policy, as tensors, without a detour through NumPy."""
