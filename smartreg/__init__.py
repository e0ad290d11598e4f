"""SMART, the smoothness-inducing adversarial regularizer."""

__version__ = "0.1.0"
