"""Reading of tables of weights in PyTorch's files and in safetensors, without PyTorch.

    archive: a zip with FOLDER/data.pkl, and the numbers of storage K in FOLDER/data/K
    legacy (before PyTorch 1.6): pickles of a magic number, a version, the machine, the
      object and the keys of its storages; then for each an i64 count and its numbers

Arrays are read-only views of bytes of the file. An incomplete storage, or a tensor that is
larger than its storage, is refused before anything of its size is allocated.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from compress_jax.codec import CodecError
from compress_jax.interop import pickles

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py.
_LEGACY_VERSION = 1001
_BFLOAT16 = 'torch.BFloat16Storage'  # The upper halves of f32.
_TYPES: dict[str, np.dtype] = {
  'torch.FloatStorage': np.dtype('<f4'),
  'torch.DoubleStorage': np.dtype('<f8'),
  'torch.HalfStorage': np.dtype('<f2'),
  _BFLOAT16: np.dtype('<u2'),
  'torch.LongStorage': np.dtype('<i8'),
  'torch.IntStorage': np.dtype('<i4'),
  'torch.ShortStorage': np.dtype('<i2'),
  'torch.CharStorage': np.dtype('i1'),
  'torch.ByteStorage': np.dtype('u1'),
  'torch.BoolStorage': np.dtype('?'),
}
_DAMAGE = (OSError, EOFError, ValueError, LookupError, RuntimeError, OverflowError, struct.error)
_MAX_EXTENT = 2**40  # Largest side and stride of a tensor: NumPy's arithmetic stays exact.
_MAX_RANK = 8


class _Storage(NamedTuple):
  """An array of numbers that tensors are views of."""

  kind: str  # A key of _TYPES.
  key: str  # Its name in the file.
  length: int  # Number of elements.

  def nbytes(self) -> int:
    return self.length * _TYPES[self.kind].itemsize


class _Tensor(NamedTuple):
  """A view of a storage; offset and strides count elements."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


_Read = Callable[[_Storage], np.ndarray]  # Returns u8[storage.nbytes()] from the file.


def read(path: Path | str) -> dict[str, np.ndarray]:
  """Reads the table of weights in a `.pth`, `.pth.tar`, `.pt` or `.safetensors` file.

  In a training checkpoint the table is the entry 'state_dict'. The prefix 'module.' of
  data-parallel training is dropped. bfloat16 becomes float32.

  Raises:
    CodecError: not such a file, a damaged one, or one that asks for more than weights.
  """
  path = Path(path)
  try:
    data = path.read_bytes()
  except OSError as error:
    raise CodecError(f'cannot read {path}: {error.strerror}') from error
  try:
    return _without_prefix(_parse(data))
  except CodecError as error:
    raise CodecError(f'{path.name}: {error}') from error


def _parse(data: bytes) -> Mapping[str, np.ndarray]:
  if data[:4] == b'PK\x03\x04':
    return _archive(data)
  if _LEGACY_MAGIC.to_bytes(10, 'little') in data[:32]:
    return _legacy(data)
  try:
    return load_safetensors(data)
  except (SafetensorError, KeyError, TypeError, ValueError) as error:
    raise CodecError(f'neither a PyTorch nor a safetensors file: {str(error)[:100]}') from error


def _without_prefix(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  plain = {name.removeprefix('module.'): array for name, array in weights.items()}
  if len(plain) != len(weights):
    raise CodecError('names appear with and without the prefix module.')
  return plain


def _archive(data: bytes) -> dict[str, np.ndarray]:
  try:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      folder = _folder(archive)
      stream = io.BytesIO(_member(archive, f'{folder}/data.pkl', pickles.MAX_BYTES))
      table = _table(pickles.load(stream, names=_NAMES, reference=_storage))

      def part(storage: _Storage) -> np.ndarray:
        content = _member(archive, f'{folder}/data/{storage.key}', storage.nbytes())
        return np.frombuffer(content, np.uint8)

      return dict(_arrays(table, part, len(data)))
  except CodecError:
    raise
  except (zipfile.BadZipFile, *_DAMAGE) as error:
    raise CodecError(f'damaged zip file: {str(error)[:100]}') from error


def _folder(archive: zipfile.ZipFile) -> str:
  """Returns the folder that all names in the archive start with."""
  names = archive.namelist()
  folders = [name.removesuffix('/data.pkl') for name in names if name.endswith('/data.pkl')]
  if len(folders) != 1:
    raise CodecError('a zip file, but not one of PyTorch')
  order = f'{folders[0]}/byteorder'
  if order in names and _member(archive, order, 16) != b'little':
    raise CodecError('its numbers are not little-endian')
  return folders[0]


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
  try:
    info = archive.getinfo(name)
  except KeyError as error:
    raise CodecError(f'{name[:100]!r} is missing in the zip file') from error
  if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit:
    raise CodecError(f'{name[:100]!r} in the zip file is compressed or too large')
  return archive.read(info)


def _legacy(data: bytes) -> dict[str, np.ndarray]:
  stream = io.BytesIO(data)
  magic, version, machine = (_plain(stream) for _ in range(3))
  if magic != _LEGACY_MAGIC or version != _LEGACY_VERSION or not isinstance(machine, dict):
    raise CodecError('a PyTorch file of an unknown version')
  if machine.get('little_endian') is not True:
    raise CodecError('its numbers are not little-endian')
  storages: dict[str, _Storage] = {}

  def reference(identity: Any) -> _Storage:
    storage = _storage(identity)
    return storages.setdefault(storage.key, storage)

  table = _table(pickles.load(stream, names=_NAMES, reference=reference))
  parts = _legacy_parts(data, _plain(stream), storages, stream.tell())
  return dict(_arrays(table, lambda storage: parts[storage.key], len(data)))


def _plain(stream: io.BytesIO) -> Any:
  return pickles.load(stream, names={}, reference=_storage)


def _legacy_parts(
  data: bytes, keys: Any, storages: Mapping[str, _Storage], at: int
) -> dict[str, np.ndarray]:
  """Returns the bytes of each storage of a legacy file; the first one starts at `at`."""
  valid = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
  if not valid or sorted(keys) != sorted(storages):
    raise CodecError('damaged: its list of storages does not fit the object')
  parts = {}
  for key in keys:
    size = storages[key].nbytes()
    if int.from_bytes(data[at : at + 8], 'little') != storages[key].length:
      raise CodecError(f'damaged: storage {key} is not where it should be')
    if at + 8 + size > len(data):
      raise CodecError('truncated')
    parts[key] = np.frombuffer(data, np.uint8, size, at + 8)
    at += 8 + size
  return parts


def _table(checkpoint: Any) -> dict[str, _Tensor]:
  if isinstance(checkpoint, dict) and isinstance(checkpoint.get('state_dict'), dict):
    checkpoint = checkpoint['state_dict']
  if not isinstance(checkpoint, dict) or not checkpoint:
    raise CodecError('holds no table of weights')
  for name, value in checkpoint.items():
    if not isinstance(name, str):
      raise CodecError('holds no table of weights, but one of numbered items')
    if not isinstance(value, _Tensor):
      raise CodecError(f'holds no table of weights: {name[:100]!r} is no tensor')
  return checkpoint


def _arrays(
  table: Mapping[str, _Tensor], part: _Read, budget: int
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields tensors as arrays; each storage is read once, at most `budget` bytes in all."""
  loaded: dict[_Storage, np.ndarray] = {}
  for name, tensor in table.items():
    storage = tensor.storage
    if storage not in loaded:
      budget -= storage.nbytes()  # Entries of a zip file may overlap.
      if budget < 0:
        raise CodecError('its storages are larger than the file')
      loaded[storage] = _numbers(storage, part(storage))
    numbers = loaded[storage][tensor.offset :]
    strides = [stride * numbers.itemsize for stride in tensor.strides]
    yield name, np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides, writeable=False)


def _numbers(storage: _Storage, content: np.ndarray) -> np.ndarray:
  if content.size != storage.nbytes():
    raise CodecError(
      f'storage {storage.key[:100]} has {content.size} bytes, not {storage.nbytes()}'
    )
  numbers = content.view(_TYPES[storage.kind])
  if storage.kind == _BFLOAT16:
    return (numbers.astype(np.uint32) << 16).view(np.float32)
  return numbers


def _storage(identity: Any) -> _Storage:
  """Returns the storage of a persistent id: ('storage', type, key, device, count)."""
  if not isinstance(identity, tuple) or not 5 <= len(identity) <= 6 or identity[0] != 'storage':
    raise CodecError('damaged: a storage is not described as one')
  kind, key, count = identity[1], identity[2], identity[4]
  if not isinstance(kind, pickles.Name) or kind.name not in _TYPES:
    raise CodecError('damaged: a storage is of no known type')
  if not isinstance(key, str) or not _is_extent(count) or identity[5:] not in ((), (None,)):
    raise CodecError('damaged: a storage is not described as one')
  return _Storage(kind.name, key, count)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> _Tensor:
  """Returns the tensor of a call of torch._utils._rebuild_tensor_v2; `rest` is ignored."""
  del rest
  if not isinstance(storage, _Storage) or not isinstance(shape, tuple):
    raise CodecError('damaged: a tensor is not described as one')
  if not isinstance(strides, tuple) or not len(shape) == len(strides) <= _MAX_RANK:
    raise CodecError('damaged: a tensor is not described as one')
  if not all(map(_is_extent, (offset, *shape, *strides))):
    raise CodecError('damaged: the shape of a tensor')
  reach = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
  size = math.prod(shape)
  if size > storage.length or offset > storage.length or (size and reach >= storage.length):
    raise CodecError(f'damaged: a tensor of shape {shape} in a storage of {storage.length} numbers')
  return _Tensor(storage, offset, shape, strides)


def _is_extent(value: Any) -> bool:
  return isinstance(value, int) and 0 <= value <= _MAX_EXTENT


def _parameter(tensor: Any, *rest: Any) -> Any:
  del rest
  return tensor


def _no_arguments(*pairs: Any) -> dict[Any, Any]:
  if pairs:
    raise CodecError('damaged: a dictionary is made from arguments')
  return {}


def _nothing(*arguments: Any) -> None:
  """Ignores what a checkpoint holds beside weights: step numbers, devices, random states."""
  del arguments


_NAMES: pickles.Names = {
  'collections.OrderedDict': _no_arguments,
  'torch._utils._rebuild_tensor_v2': _tensor,
  'torch._utils._rebuild_parameter': _parameter,
  'torch.Size': _nothing,
  'torch.device': _nothing,
  'numpy.dtype': _nothing,
  'numpy.core.multiarray.scalar': _nothing,
  'numpy._core.multiarray.scalar': _nothing,
  '_codecs.encode': _nothing,
  **dict.fromkeys(_TYPES),
}
