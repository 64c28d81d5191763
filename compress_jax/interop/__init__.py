"""Conversion of other projects' checkpoints to the parameters of this package's models."""
