"""Settings of the C allocator for programs that allocate large blocks repeatedly."""

import ctypes
import sys

# Parameters of mallopt, in malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
  """Makes the allocator keep freed memory for later requests instead of returning it.

  XLA on a CPU allocates the memory of a program anew for each run. By default glibc returns such
  blocks to the kernel, which clears all of their pages again: with gmm at N=128, a third
  of a million pages per training step. With this setting the process keeps its peak of memory.
  It has to be called before threads are started.

  Returns:
    Whether the settings were made: only glibc has them.
  """
  if not sys.platform.startswith('linux'):
    return False
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:
    return False
  # -1: never trim. With any threshold a heap larger than it gives pages back after every run.
  settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 2**28))
  statuses = [mallopt(name, value) for name, value in settings]
  return all(status == 1 for status in statuses)
