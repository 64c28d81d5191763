"""One program at a time in a folder; a program that was killed keeps nobody out."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from compress_jax.codec import CodecError
from compress_jax.files import locks

HOLD = """
import sys, time
from pathlib import Path
from compress_jax.files import locks
with locks.held(Path(sys.argv[1])):
  print('held', flush=True)
  time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
  """Another process that holds a folder."""
  command = [sys.executable, '-c', HOLD, str(tmp_path / 'run')]
  process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
  assert process.stdout.readline() == 'held\n'
  yield process
  process.kill()
  process.communicate()


def test_the_second_is_told_who_holds_a_folder(holder, tmp_path):
  who = rf'process {holder.pid} on {socket.gethostname()} since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d'
  with pytest.raises(CodecError, match=f'run is in use by {who}'), locks.held(tmp_path / 'run'):
    pass
  (tmp_path / 'link').symlink_to(tmp_path / 'run')  # The same folder by another name.
  with pytest.raises(CodecError, match=who), locks.held(tmp_path / 'link'):
    pass
  with locks.held(tmp_path / 'other'):
    pass


def test_a_process_that_was_killed_keeps_nobody_out(holder, tmp_path):
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  with locks.held(tmp_path / 'run'):
    assert json.loads((tmp_path / 'run' / locks.HOLDER).read_text())['pid'] == os.getpid()


@pytest.mark.parametrize('text', ['', '[]', '{"pid": 1}', None])
def test_a_holder_that_has_not_said_who_it_is_is_another_program(tmp_path, text):
  with locks.held(tmp_path):
    said = (tmp_path / locks.HOLDER).read_text()
    (tmp_path / locks.HOLDER).unlink()
    if text is not None:
      (tmp_path / locks.HOLDER).write_text(text)
    with pytest.raises(CodecError, match='in use by another program'), locks.held(tmp_path):
      pass
    (tmp_path / locks.HOLDER).write_text(said)


def test_a_folder_is_free_again_after_an_error(tmp_path):
  with pytest.raises(ValueError, match='why'), locks.held(tmp_path / 'a' / 'b'):
    raise ValueError('why')
  with locks.held(tmp_path / 'a' / 'b'):
    assert (tmp_path / 'a' / 'b' / locks.HOLDER).exists()
  assert not (tmp_path / 'a' / 'b' / locks.HOLDER).exists()
