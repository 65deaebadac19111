.PHONY: check lint types test test-slow audit report docs docs-serve

check: lint types test

lint:
	ruff check .
	ruff format --check .

types:
	mypy

test:
	pytest -n auto

# The tests that take half a minute or more each, before a release
test-slow:
	pytest -m slow -n auto

# Known holes in what uv.lock names, asked of PyPI. What cannot be asked about is an error
audit:
	uv export --quiet --frozen --all-groups --no-emit-project \
	| uv tool run pip-audit --strict --disable-pip --requirement /dev/stdin

# The page of the benchmark, from the committed results
report:
	python -m daft_rl.report benchmarks/results/mujoco.jsonl.gz --references benchmarks/references.json --out report

# The documentation as a site, into site/; a broken link is an error
docs:
	mkdocs build --strict

# The same, rebuilt as the pages change, at http://127.0.0.1:8000
docs-serve:
	mkdocs serve
