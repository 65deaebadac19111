.PHONY: check lint types test report

check: lint types test

lint:
	ruff check .
	ruff format --check .

types:
	mypy

test:
	pytest -n auto

# The page of the benchmark, from the committed results
report:
	python -m daft_rl.report benchmarks/results/mujoco.jsonl.gz --references benchmarks/references.json --out report
