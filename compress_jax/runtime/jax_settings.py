"""Settings that users make for JAX, such as JAX_PLATFORMS, and how programs handle them."""

import contextlib
import os
from collections.abc import Iterator
from concurrent import futures

from compress_jax.errors import CodecError
from compress_jax.runtime.imports import imported

# JAX's defaults. Stricter settings find mistakes, but not all libraries work under them.
_PROMOTION = {'jax_numpy_dtype_promotion': 'standard', 'jax_numpy_rank_promotion': 'allow'}


@contextlib.contextmanager
def usual_promotion() -> Iterator[None]:
  """Restores JAX's default type promotion inside the `with` block, in all threads."""
  jax = imported('jax')
  read = lambda: {name: getattr(jax.config, name) for name in _PROMOTION}  # noqa: E731
  with futures.ThreadPoolExecutor(1) as other:  # This thread may have other settings.
    before = other.submit(read).result()
  try:
    for name, value in _PROMOTION.items():
      jax.config.update(name, value)
    with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
      yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)


def no_device() -> str | None:
  """Returns an error message if JAX has no device, else None.

  It is to be called after an error: JAX raises RuntimeError or a bare AssertionError from
  whichever of its functions is called first.
  """
  import jax

  try:
    jax.devices()
    return None
  except Exception as error:
    platforms = os.environ.get('JAX_PLATFORMS')
    reason = f' ({line})' if (line := ' '.join(str(error).split())) else ''
    if platforms:
      return f'JAX has no device of JAX_PLATFORMS={platforms}; unset it, or set it to cpu{reason}'
    return f'JAX has no device to compute on{reason}'


def check_devices() -> None:
  """Raises CodecError where settings leave JAX without a device, before workers fail one by one."""
  if os.environ.get('JAX_PLATFORMS', 'cpu') in ('', 'cpu'):
    return  # This process does not need the device and must not occupy it.
  if reason := no_device():
    raise CodecError(reason)
