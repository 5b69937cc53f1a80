"""Models for applications outside of the cluster: a Gateway, a route, a certificate, and their tokens.

options     `targets.kubernetes.expose` of matcha.yaml
kinds       of the Gateway API and of cert-manager, which not every cluster has
objects     what is made of the options
checking    whether the cluster has what that needs, before anything is made
conditions  what those who run gateways say of it
mounted     where pods find the tokens
tokens      the Secret that holds what is kept of tokens
"""
