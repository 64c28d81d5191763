"""The float networks of a learned codec as programs that run without this package.

Each is a StableHLO program that contains the weights, as `jax.export` serialises it. It processes
images of any size, one or several at a time, on every platform for which it was made.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from compress_jax.codec import Array, Codec, Released
from compress_jax.runtime.extras import require

PLATFORMS = ('cpu', 'cuda')
_SIDE = 128  # Side in pixels of the image that shows the shape of latents.


class Programs(NamedTuple):
  """Two programs that `jax.export.deserialize` reads, and the geometry of their latents."""

  analysis: bytes  # f32[B, cell * h, cell * w, 3] in [0, 1] to latents f32[B, h, w, channels].
  synthesis: bytes  # Latents f32[B, h, w, channels] to f32[B, cell * h, cell * w, 3], not clipped.
  cell: int  # Pixels along a side of a latent.
  channels: int  # Channels of the latents.


def programs(codec: Codec, released: Released, *, platforms: Sequence[str] = PLATFORMS) -> Programs:
  """Returns the analysis and the synthesis of a released model as programs.

  They compute in full float32, as the decoder does. The caller extends images to whole cells by
  repeating their last row and column.

  Args:
    codec: the codec of a learned method.
    released: its model.
    platforms: the platforms that run the programs, such as 'cpu', 'cuda' and 'tpu'; this machine
      needs none of them.

  Raises:
    CodecError: the package `flatbuffers` is missing, or the codec has no parameters.
  """
  require('deploy', 'flatbuffers')
  params = codec.thaw(released)

  def analysis(x: Array) -> Array:
    return codec.analysis(params, x)

  def synthesis(y_hat: Array) -> Array:
    height, width = y_hat.shape[1:3]
    return codec.synthesis(params, y_hat, (cell * height, cell * width))

  latents = jax.eval_shape(analysis, jax.ShapeDtypeStruct((1, _SIDE, _SIDE, 3), jnp.float32))
  cell, channels = _SIDE // latents.shape[1], latents.shape[3]
  images = f'b, {cell}*h, {cell}*w, 3'
  return Programs(
    _exported(analysis, images, platforms),
    _exported(synthesis, f'b, h, w, {channels}', platforms),
    *(cell, channels),
  )


def description(made: Programs, method: str, model_id: bytes) -> bytes:
  """Returns a JSON object that describes programs, for a file beside them.

  Args:
    made: the programs.
    method: the name of their method.
    model_id: the id of the model, which files contain.
  """
  sizes = {'cell': made.cell, 'channels': made.channels}
  about = {'method': method, 'model_id': model_id.hex(), **sizes}
  return json.dumps(about, indent=2).encode() + b'\n'


def _exported(network: Callable[[Array], Array], shape: str, platforms: Sequence[str]) -> bytes:
  """Returns a function of one array as a serialised program.

  Args:
    network: the function.
    shape: the shape of the array, in which names stand for sizes that vary.
    platforms: the platforms of the program.
  """
  given = jax.ShapeDtypeStruct(export.symbolic_shape(shape), jnp.float32)
  with jax.default_matmul_precision('highest'), _without_paths():
    made = export.export(jax.jit(network), platforms=list(platforms))(given)
    return bytes(made.serialize())


@contextlib.contextmanager
def _without_paths() -> Iterator[None]:
  """Keeps the paths of this installation's source files out of programs made in the context."""
  name = 'jax_traceback_in_locations_limit'
  before = getattr(jax.config, name)
  jax.config.update(name, 0)
  try:
    yield
  finally:
    jax.config.update(name, before)
