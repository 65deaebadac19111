"""Batches of environments, equal to SB3's ``DummyVecEnv`` in every bit: MuJoCo in threads, others in workers.

Import :class:`ThreadedMujocoVecEnv` from ``daft_rl.envs.batch.threads`` and :class:`WorkerVecEnv` from
``daft_rl.envs.batch.workers``. They import PyTorch, which a worker process does without.
"""
