"""``python -m daft_rl.report``: what a benchmark's cells say."""
