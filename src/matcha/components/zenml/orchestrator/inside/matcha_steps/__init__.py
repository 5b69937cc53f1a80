"""ZenML's orchestrator for clusters: each step of a pipeline is a job, queued for whoever leads the pipeline.

The leader is the user's own process; it has no right in the cluster, and asks the `matcha run --pipeline`
that started it. So there is no image to build, no registry, and no token in any pod.
"""
