"""Matcha against the bare tools, side by side in one run: `benchmarks/run`, see README.md."""
