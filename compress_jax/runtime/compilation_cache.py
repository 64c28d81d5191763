"""JAX's compilation cache on disk, so that only the first run of a program compiles."""

import hashlib
import os
import platform
import warnings
from pathlib import Path

import jax
import platformdirs


def cache_folder() -> Path:
  """Returns this user's folder for compiled programs, one per kind of processor.

  XLA compiles for the processor of this machine, and machines may share a home folder.
  """
  return Path(platformdirs.user_cache_dir('compress_jax')) / 'compiled' / _processor()


def enable_cache() -> None:
  """Turns the compilation cache on; does nothing where its folder cannot be written.

  `JAX_COMPILATION_CACHE_DIR`, where set, is respected. The call changes the process's JAX
  configuration, so programs make it, not library functions.
  """
  if not getattr(jax.config, 'jax_compilation_cache_dir', None):
    folder = cache_folder()
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except OSError:
      return
    if not os.access(folder, os.W_OK):
      return
    jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  # Another process may be writing an entry, or the disk may be full: then this process compiles.
  warnings.filterwarnings('ignore', 'Error (reading|writing) persistent compilation cache')


def _processor() -> str:
  name = platform.machine()
  try:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    name += next((line for line in lines if line.startswith(('flags', 'Features'))), '')
  except OSError:  # Not Linux: only the architecture is known.
    pass
  return hashlib.sha256(name.encode()).hexdigest()[:12]
