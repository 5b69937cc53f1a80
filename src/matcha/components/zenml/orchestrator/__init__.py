"""ZenML pipelines whose steps are jobs."""
