"""Worlds on the GPU: all five tasks simulated by MuJoCo Warp, thousands at once, each with its own dynamics.

The same code runs on Warp's CPU device, which tests use. Modules here import PyTorch and Warp, which take seconds, so
nothing is imported from this package itself.
"""
