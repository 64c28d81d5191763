"""Learned image compression in JAX: pure functions, real bitstreams, honest numbers."""
