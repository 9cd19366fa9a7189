"""Fixtures of the method's own tests, which those of its exchange with other programs share."""

from svf.conftest import config, model, randomise, tokens

__all__ = ["config", "model", "randomise", "tokens"]
