"""``python -m daft_rl.report``: tables, statistics and figures of finished transfers."""
