"""Reading of the data of a pickle without running it: nothing is imported or called by name.

A pickle is a program that may call anything. This interpreter knows the operations that
build numbers, strings and containers. Each name in the pickle stands for an entry of the
caller's table, and other names are refused.

The operations are those documented in the standard library's `pickletools`.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple

from compress_jax.codec import CodecError

# One operation takes a byte or more of a pickle and makes an object of up to 64 bytes.
MAX_BYTES = 2**23
_INTEGERS = ('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4')
_FLOATS = ('FLOAT', 'BINFLOAT')
_STRINGS = ('UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8')
_BYTES = ('BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8')
_LITERALS = frozenset((*_INTEGERS, *_FLOATS, *_STRINGS, *_BYTES))
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}
_EMPTY: dict[str, Callable[[], Any]] = {'EMPTY_DICT': dict, 'EMPTY_LIST': list}
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
_GETS = frozenset(('GET', 'BINGET', 'LONG_BINGET'))
_PUTS = frozenset(('PUT', 'BINPUT', 'LONG_BINPUT'))
_MARK = object()


class Name(NamedTuple):
  """A name that a pickle refers to, such as 'torch._utils._rebuild_tensor_v2'."""

  name: str


# The function that runs when a name is called; None for names that are never called.
Names = Mapping[str, Callable[..., Any] | None]


class _Machine(NamedTuple):
  """The state of the interpreter."""

  stack: list[Any]
  memo: dict[int, Any]
  names: Names
  reference: Callable[[Any], Any]
  build: Callable[[Any, Any], None]


def no_reference(identity: Any) -> Any:
  """Raises CodecError for a persistent id, in pickles that must not have any."""
  raise CodecError('damaged pickle: it refers to data outside of it')


def ignore_state(value: Any, state: Any) -> None:
  """Ignores the state of an object."""


def load(
  stream: IO[bytes],
  *,
  names: Names,
  reference: Callable[[Any], Any] = no_reference,
  build: Callable[[Any, Any], None] = ignore_state,
  max_bytes: int | None = None,
) -> Any:
  """Returns the object of the pickle that begins at the stream's position.

  The stream is left at the end of the pickle.

  Args:
    stream: seekable.
    names: the function of every name that may occur.
    reference: returns the object of a persistent id.
    build: sets the state of an object that a call has made, in place.
    max_bytes: largest size of the pickle, MAX_BYTES where None. A pickle that holds arrays may
      have more; MAX_BYTES stays the limit of its operations, and so of their memory.

  Raises:
    CodecError: another name, an operation that data does not need, a damaged pickle, or
      one that is too large.
  """
  machine, limit = _Machine([], {}, names, reference, build), max_bytes or MAX_BYTES
  start = stream.tell()
  try:
    for count, (operation, argument, position) in enumerate(pickletools.genops(stream)):
      if (position or 0) - start > limit or count > MAX_BYTES:
        raise CodecError(f'pickle of more than {limit} bytes or {MAX_BYTES} operations')
      if operation.name == 'STOP':
        return _pop(machine)
      _step(machine, operation.name, argument)
  except CodecError:
    raise
  except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
    raise CodecError(f'damaged pickle: {str(error)[:100]}') from error
  raise CodecError('damaged pickle: no end')


def _step(machine: _Machine, operation: str, argument: Any) -> None:
  stack, memo = machine.stack, machine.memo
  if operation in _LITERALS:
    stack.append(argument)
  elif operation in _CONSTANTS:
    stack.append(_CONSTANTS[operation])
  elif operation in _EMPTY:
    stack.append(_EMPTY[operation]())
  elif operation == 'MARK':
    stack.append(_MARK)
  elif operation in _GETS:
    stack.append(memo[int(argument)])
  elif operation in _PUTS:
    memo[int(argument)] = _top(machine)
  elif operation == 'MEMOIZE':
    memo[len(memo)] = _top(machine)
  elif operation in _TUPLES:
    items = [_pop(machine) for _ in range(_TUPLES[operation])]
    stack.append(tuple(reversed(items)))
  elif operation not in ('PROTO', 'FRAME'):
    _combine(machine, operation, argument)


def _combine(machine: _Machine, operation: str, argument: Any) -> None:
  stack = machine.stack
  if operation == 'TUPLE':
    stack.append(tuple(_pop_to_mark(machine)))
  elif operation in ('APPEND', 'APPENDS'):
    items = [_pop(machine)] if operation == 'APPEND' else _pop_to_mark(machine)
    _container(machine, list).extend(items)
  elif operation in ('SETITEM', 'SETITEMS'):
    items = (
      [_pop(machine), _pop(machine)][::-1] if operation == 'SETITEM' else _pop_to_mark(machine)
    )
    _set_items(_container(machine, dict), items)
  elif operation == 'GLOBAL':
    stack.append(_named(machine, *argument.split(' ', 1)))
  elif operation == 'STACK_GLOBAL':
    attribute, module = _pop(machine), _pop(machine)
    stack.append(_named(machine, module, attribute))
  elif operation == 'REDUCE':
    arguments, function = _pop(machine), _pop(machine)
    stack.append(_call(machine, function, arguments))
  elif operation == 'BINPERSID':
    stack.append(machine.reference(_pop(machine)))
  elif operation == 'BUILD':
    state = _pop(machine)
    machine.build(_top(machine), state)
  else:
    raise CodecError(f'refused: the pickle uses {operation}, which no table of weights needs')


def _named(machine: _Machine, module: Any, attribute: Any) -> Name:
  if not isinstance(module, str) or not isinstance(attribute, str):
    raise CodecError('damaged pickle: a name is no string')
  name = f'{module}.{attribute}'
  if name not in machine.names:
    raise CodecError(f'refused: the pickle asks for {name[:80]!r}, which no table of weights needs')
  return Name(name)


def _call(machine: _Machine, function: Any, arguments: Any) -> Any:
  if not isinstance(function, Name) or not isinstance(arguments, tuple):
    raise CodecError('damaged pickle: a call of what is no function')
  action = machine.names[function.name]
  if action is None:
    raise CodecError(f'refused: the pickle calls {function.name}')
  return action(*arguments)


def _set_items(table: dict[Any, Any], items: list[Any]) -> None:
  for key, value in zip(items[::2], items[1::2], strict=True):
    # Hashing a nested tuple recurses without a limit.
    if not isinstance(key, str | int):
      raise CodecError(f'damaged pickle: a key is a {type(key).__name__}')
    table[key] = value


def _container(machine: _Machine, kind: type) -> Any:
  if not isinstance(_top(machine), kind):
    raise CodecError(f'damaged pickle: items are put into what is no {kind.__name__}')
  return _top(machine)


def _top(machine: _Machine) -> Any:
  if machine.stack[-1] is _MARK:
    raise CodecError('damaged pickle: a value is missing')
  return machine.stack[-1]


def _pop(machine: _Machine) -> Any:
  _top(machine)
  return machine.stack.pop()


def _pop_to_mark(machine: _Machine) -> list[Any]:
  items = []
  while machine.stack[-1] is not _MARK:
    items.append(machine.stack.pop())
  machine.stack.pop()
  return items[::-1]
