"""Learned image compression in JAX: pure functions, real bitstreams, honest numbers."""

__version__ = '0.1.0'
