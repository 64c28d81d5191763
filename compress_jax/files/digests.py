"""Digests of models and files."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def digest(arrays: Mapping[str, np.ndarray]) -> bytes:
  """Returns the SHA-256 over names, shapes, types and values, little-endian, in order of name."""
  sha = hashlib.sha256()
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name]).astype(arrays[name].dtype.newbyteorder('<'))
    sha.update(f'{name} {array.dtype.str} {array.shape}\n'.encode() + array.tobytes())
  return sha.digest()


def digest_of_files(paths: Sequence[Path]) -> str:
  """Returns the SHA-256 of one file, or a hash of those of several; paths do not count."""
  digests = []
  for path in paths:
    with open(path, 'rb') as file:
      digests.append(hashlib.file_digest(file, 'sha256').hexdigest())
  return digests[0] if len(digests) == 1 else hashlib.sha256(' '.join(digests).encode()).hexdigest()
