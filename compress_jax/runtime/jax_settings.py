"""JAX's settings from outside, such as JAX_PLATFORMS, as programs take them."""

import contextlib
import os
from collections.abc import Iterator
from concurrent import futures

import jax

from compress_jax.codec import CodecError

# Both are for finding mistakes; libraries that programs use do not all work under stricter ones.
_PROMOTION = {'jax_numpy_dtype_promotion': 'standard', 'jax_numpy_rank_promotion': 'allow'}


@contextlib.contextmanager
def usual_promotion() -> Iterator[None]:
  """Within, arrays are promoted as JAX does by default, in all threads."""
  read = lambda: {name: getattr(jax.config, name) for name in _PROMOTION}  # noqa: E731
  with futures.ThreadPoolExecutor(1) as other:  # This thread may have settings of its own.
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
  """What to tell a user where JAX has no device; None where it has.

  To be asked when something went wrong: JAX raises RuntimeError or a bare AssertionError from
  whatever it was called for first.
  """
  try:
    jax.devices()
    return None
  except Exception as error:
    asked = os.environ.get('JAX_PLATFORMS')
    reason = f' ({line})' if (line := ' '.join(str(error).split())) else ''
    if asked:
      return f'JAX has no device of JAX_PLATFORMS={asked}; unset it, or set it to cpu{reason}'
    return f'JAX has no device to compute on{reason}'


def check_devices() -> None:
  """Refuses settings that leave JAX without a device, before workers fail one by one.

  Raises:
    CodecError: see `no_device`.
  """
  if os.environ.get('JAX_PLATFORMS', 'cpu') in ('', 'cpu'):
    return  # A device that is not needed here is not taken.
  if reason := no_device():
    raise CodecError(reason)
