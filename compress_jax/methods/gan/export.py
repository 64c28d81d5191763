"""Conversion of gan's hyper-synthesis to the layers of the integer export, and back."""

from collections.abc import Sequence

from compress_jax.codec import Params
from compress_jax.exact import floats
from compress_jax.exact.export import FloatLayer


def float_layers(params: Params) -> list[FloatLayer]:
  """Returns the layers of a hyper-synthesis, for export."""
  ups = [floats.deconv_layer(params[f'up{i}'], slope=0.0) for i in range(2)]
  return [*ups, floats.layer(params['last'])]


def hyper_params(layers: Sequence[FloatLayer]) -> Params:
  """Returns the parameters of a hyper-synthesis from its layers; inverts `float_layers`."""
  *ups, last = layers
  params = {f'up{i}': floats.deconv_params(layer, 5) for i, layer in enumerate(ups)}
  return {**params, 'last': floats.conv_params(last)}
