.PHONY: dev check lint types test test-slow lock audit report docs docs-serve

# A developer's environment in .venv, with the versions that CI installs; any pip will do
dev:
	pip install uv
	[ -d .venv ] || uv venv
	uv pip install --constraint constraints.txt --editable . --group dev --group sim

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

# The versions that developers and CI install: today's, for all Pythons that pyproject.toml admits
lock:
	rm -f uv.lock
	env -u UV_FIND_LINKS uv lock
	(sed -n 1p constraints.txt; uv export --quiet --frozen --all-groups --no-hashes --no-emit-project --no-annotate \
		--no-header | sed -E "s/( ;| and) \(*(platform_machine|sys_platform) .*//") > constraints.new
	mv constraints.new constraints.txt

# Known holes in these versions, asked of PyPI. What cannot be asked about is an error
audit:
	uv tool run pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

# The page of the benchmark, from the committed results
report:
	python -m daft_rl.report benchmarks/results/mujoco.jsonl.gz --out report

# The documentation as a site, into site/; a broken link is an error
docs:
	mkdocs build --strict

# The same, rebuilt as the pages change, at http://127.0.0.1:8000
docs-serve:
	mkdocs serve
