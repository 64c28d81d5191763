"""Imports of large libraries, during which Python's garbage collector is off."""

import functools
import gc
import importlib
from typing import Any


@functools.cache
def imported(name: str) -> Any:
  """Returns a module, imported while the garbage collector is off.

  The collector leaves alone whatever there is afterwards, also when the process ends. Searching all
  that modules hold, again and again, takes a sixth of the time of a program of two seconds.
  """
  enabled = gc.isenabled()
  gc.disable()
  try:
    return importlib.import_module(name)
  finally:
    gc.freeze()
    if enabled:
      gc.enable()
