"""On PYTHONPATH in pods of Matcha's own, where Matcha itself is not installed."""
