"""Makes `tests/` importable: helpers of several tests stand in `support`."""
