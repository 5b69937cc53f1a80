"""The commented stack file that `init` and a first `provision` write."""

DEFAULT = """\
# What Matcha provisions here. Everything is optional; this file holds no secret and belongs in git.
# Every key: docs/reference/stack-file.md in Matcha's repository.

stack: default            # the named set of components to start from

# target: local           # where it runs: local processes (default)

# components:             # role: flavor, or role: {flavor: ..., options}; null takes a component out
#   pipeline: null
#   model-deployer: {flavor: mlserver, max-body-mb: 32}

# models:                 # settings of deployed models, by deployment name
#   movie:
#     sample: 0.5         # share of the traffic that is captured for monitoring (0..1, default 1)
"""
