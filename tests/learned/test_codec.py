"""Decoding of learned codecs: symbols are read while the synthesis is compiled beside."""

import threading

import pytest

from compress_jax import bitstream
from compress_jax.codec import CodecError
from compress_jax.learned import tiles
from compress_jax.model_zoo import pretrained
from tests.helpers import small_models


@pytest.fixture
def compiling(monkeypatch):
  """Makes the preparation of programs last until this event is set."""
  event = threading.Event()
  monkeypatch.setattr(tiles, 'prepare', lambda *args, **options: event.wait(60))
  yield event
  event.set()


def test_a_damaged_payload_is_refused_while_the_synthesis_compiles(compiling):
  codec, released = pretrained('gan', model=small_models.path('gan'))
  header, payload = bitstream.unpack(codec.encode(released, small_models.picture(64, 64)))
  damaged = bitstream.pack(header, payload[: len(payload) // 2])
  with pytest.raises(CodecError):
    codec.decode(released, damaged)
  assert not compiling.is_set()


def test_an_interrupt_ends_decoding_while_the_synthesis_compiles(compiling, monkeypatch):
  codec, released = pretrained('gan', model=small_models.path('gan'))
  file = codec.encode(released, small_models.picture(64, 64))

  def interrupted(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr('compress_jax.learned.codec._read', interrupted)
  with pytest.raises(KeyboardInterrupt):
    codec.decode(released, file)
  assert not compiling.is_set()
