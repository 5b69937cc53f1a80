"""Runs in the environment of a project's own code: nothing here imports Matcha."""
