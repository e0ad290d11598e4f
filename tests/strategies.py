"""Hypothesis strategies shared by the tests of both libraries."""
