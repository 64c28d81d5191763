"""From the hyper-synthesis of gan to the layers that export wants, and back."""

from collections.abc import Sequence

from compress_jax.codec import Params
from compress_jax.exact import floats
from compress_jax.exact.export import FloatLayer


def float_layers(params: Params) -> list[FloatLayer]:
  """A hyper-synthesis, for export."""
  ups = [floats.deconv_layer(params[f'up{i}'], slope=0.0) for i in range(2)]
  return [*ups, floats.layer(params['last'])]


def hyper_params(layers: Sequence[FloatLayer]) -> Params:
  """The inverse of `float_layers`."""
  *ups, last = layers
  found = {f'up{i}': floats.deconv_params(layer, 5) for i, layer in enumerate(ups)}
  return {**found, 'last': floats.conv_params(last)}
