"""Finished rows on disk, one JSON line each, so that an interrupted run loses none."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def fingerprint(*parts: Any) -> str:
  """Returns the hash of values that JSON can write; the key of a row is that of its inputs."""
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read(path: Path) -> dict[str, Row]:
  """Returns the rows written so far by key; a line that a crash truncated is skipped."""
  rows: dict[str, Row] = {}
  if path.exists():
    for line in path.read_text(errors='replace').splitlines():
      try:
        entry = json.loads(line)
        rows[entry['key']] = entry['row']
      except (ValueError, KeyError, TypeError):
        continue
  return rows


def append(path: Path, key: str, row: Mapping[str, Any]) -> None:
  """Adds a row and returns once it is on disk."""
  line = json.dumps({'key': key, 'row': row}, allow_nan=False) + '\n'
  with open(path, 'ab+') as file:
    if file.tell() and not _ends_with_newline(file):
      line = '\n' + line  # After a crash in the middle of a line.
    file.write(line.encode())
    file.flush()
    os.fsync(file.fileno())


def _ends_with_newline(file: Any) -> bool:
  file.seek(-1, os.SEEK_END)
  return file.read(1) == b'\n'
