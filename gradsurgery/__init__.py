"""Gradient surgery for torch optimizers."""

__version__ = "0.1.0"
