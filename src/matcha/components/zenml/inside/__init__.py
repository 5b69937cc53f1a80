"""Runs in the server's own environment: nothing here imports Matcha."""
