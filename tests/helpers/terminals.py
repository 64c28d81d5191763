"""Programs whose standard error is a terminal, or none."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).parents[2]


def on_a_terminal(code, *, columns=80):
  """Returns what a Python program writes to standard output and to a terminal as standard error."""
  ours, theirs = pty.openpty()
  fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24 if columns else 0, columns, 0, 0))
  program = [sys.executable, '-c', code]
  shown = b''
  with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs) as process:
    os.close(theirs)
    with contextlib.suppress(OSError):  # Linux ends a terminal that nobody holds by an error.
      while part := os.read(ours, 4096):
        shown += part
    os.close(ours)
    out = process.stdout.read()
  return out.decode(), shown.decode()


def in_a_pipe(code):
  """Returns what a Python program writes to standard output and to a pipe as standard error."""
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  return done.stdout, done.stderr
