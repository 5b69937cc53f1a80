"""Keeps loopback ports of this machine connected to the pods of one stack, in one supervised process."""
