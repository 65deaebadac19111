"""Cannot be imported."""

raise RuntimeError("import boom")
