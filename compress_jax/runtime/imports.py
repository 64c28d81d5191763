"""Imports of large libraries, during which Python's garbage collector is off."""

import functools
import gc
import importlib
from typing import Any


@functools.cache
def imported(name: str) -> Any:
  """Returns a module, imported while the garbage collector is off.

  Imported objects are then frozen, so the collector never scans them, even at exit. Such scans
  would take a sixth of the time of a program of two seconds.
  """
  enabled = gc.isenabled()
  gc.disable()
  try:
    return importlib.import_module(name)
  finally:
    gc.freeze()
    if enabled:
      gc.enable()
