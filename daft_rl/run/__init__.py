"""One run: its folder, its agent, its evaluations and results, and the parts whose state a run needs to go on."""
