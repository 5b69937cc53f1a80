"""A target in memory and one file, for tests of components, of the engine, and of your own code."""

from matcha.targets.fake.target import FakeOptions, FakeTarget

TARGET = FakeTarget

__all__ = ["TARGET", "FakeOptions", "FakeTarget"]
