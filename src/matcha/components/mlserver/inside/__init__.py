"""On PYTHONPATH of the serving processes, where Matcha itself is not installed."""
