"""Learned image compression in JAX: pure functions, real bitstreams, honest numbers.

  codec, released = compress_jax.pretrained('gmm', lmbda=0.013)
  file = codec.encode(released, image)  # bytes, of u8[H, W, 3]
  image = codec.decode(released, file)

`Codec` is the interface of every method; the names here are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from compress_jax.codec import Codec as Codec
  from compress_jax.errors import CodecError as CodecError
  from compress_jax.methods import METHODS as METHODS
  from compress_jax.model_zoo import pretrained as pretrained

__version__ = '0.2.0'
__all__ = ['METHODS', 'Codec', 'CodecError', '__version__', 'pretrained']
_PLACES = {
  'Codec': 'codec',
  'CodecError': 'errors',
  'METHODS': 'methods',
  'pretrained': 'model_zoo',
}


def __getattr__(name: str) -> Any:
  if name not in _PLACES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_PLACES[name]}'), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
