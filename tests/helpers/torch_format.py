"""Writes the files that PyTorch writes, byte by byte, with whatever lies one wants in them."""

import io
import zipfile

MAGIC = 0x1950A86A20F9469CFC6C
TRUE, FALSE = b'\x88', b'\x89'


def text(value):
  return b'X' + len(value.encode()).to_bytes(4, 'little') + value.encode()


def integer(value):
  data = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
  return b'\x8a' + bytes([len(data)]) + data


def name(module, attribute):
  return b'c' + f'{module}\n{attribute}\n'.encode()


def tuple_of(*items):
  return b'(' + b''.join(items) + b't'


def list_of(*items):
  return b'](' + b''.join(items) + b'e'


def table(**items):
  return b'}(' + b''.join(text(key) + value for key, value in items.items()) + b'u'


def call(function, *arguments):
  return function + tuple_of(*arguments) + b'R'


def program(body):
  return b'\x80\x02' + body + b'.'


def storage(kind, key, length):
  parts = text('storage'), name('torch', kind), text(key), text('cpu'), integer(length)
  return tuple_of(*parts) + b'Q'


def legacy_storage(kind, key, length):
  parts = text('storage'), name('torch', kind), text(key), text('cpu'), integer(length), b'N'
  return tuple_of(*parts) + b'Q'


def tensor(kept_in, offset, shape, strides):
  return call(
    name('torch._utils', '_rebuild_tensor_v2'),
    kept_in,
    integer(offset),
    tuple_of(*map(integer, shape)),
    tuple_of(*map(integer, strides)),
    FALSE,
    call(name('collections', 'OrderedDict')),
  )


def archive(body, parts, *, method=zipfile.ZIP_STORED, order=b'little'):
  """The bytes of a `.pth` file; parts: {key: bytes} of storages."""
  out = io.BytesIO()
  with zipfile.ZipFile(out, 'w', method) as file:
    file.writestr('model/data.pkl', program(body))
    file.writestr('model/byteorder', order)
    for key, data in parts.items():
      file.writestr(f'model/data/{key}', data)
    file.writestr('model/version', b'3\n')
  return out.getvalue()


def legacy(body, parts, *, version=1001, little=TRUE):
  """The bytes of a legacy file; parts: {key: (length, bytes)} of storages, in their order."""
  heads = integer(MAGIC), integer(version), table(little_endian=little), body
  keys = list_of(*(text(key) for key in parts))
  storages = [length.to_bytes(8, 'little') + data for length, data in parts.values()]
  return b''.join(map(program, (*heads, keys))) + b''.join(storages)
