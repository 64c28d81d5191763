"""Fingerprints of models."""

import hashlib
from collections.abc import Mapping

import numpy as np


def digest(arrays: Mapping[str, np.ndarray]) -> bytes:
  """SHA-256 over names, shapes, types and values, little-endian, in order of name."""
  sha = hashlib.sha256()
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name]).astype(arrays[name].dtype.newbyteorder('<'))
    sha.update(f'{name} {array.dtype.str} {array.shape}\n'.encode() + array.tobytes())
  return sha.digest()
