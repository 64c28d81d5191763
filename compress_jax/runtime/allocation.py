"""The C allocator's settings for programs that use much memory again and again."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # Of mallopt, in malloc.h.


def keep_freed_memory() -> bool:
  """Tells the allocator to keep what is freed for the next request, in place of returning it.

  XLA on a CPU takes the memory of a program anew for each run. By default glibc hands such
  pieces back to the kernel, which clears every page of them again: with gmm at N=128, a third
  of a million pages per training step. The process holds on to its peak of memory from here on.
  Call it before threads are started.

  Returns:
    Whether it was done: glibc alone has these settings.
  """
  if not sys.platform.startswith('linux'):
    return False
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:
    return False
  # -1: never trim. With any threshold a heap larger than it gives pages back after every run.
  settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 2**28))
  done = [mallopt(name, value) for name, value in settings]
  return all(status == 1 for status in done)
