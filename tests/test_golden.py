"""Files written once must decode to the same pixels in every later version.

`python -m tests.test_golden` writes those of the shipped tables anew; a change of
hashes means a new model id, named in CHANGELOG.md.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from compress_jax import data, methods
from compress_jax.pretrained import decoder, pretrained

FOLDER = Path(__file__).parent / 'golden'
LIST = FOLDER / 'sha256.json'
HASHES = json.loads(LIST.read_text()) if LIST.exists() else {}


def pixels(file):
  return decoder(methods.of_file(file))(file)


def digest(image):
  return hashlib.sha256(f'{image.shape}'.encode() + image.tobytes()).hexdigest()


@pytest.mark.parametrize('name', HASHES)
def test_golden_files_decode_to_their_pixels(name):
  assert digest(pixels((FOLDER / name).read_bytes())) == HASHES[name]


def test_there_are_golden_files_of_every_method():
  names = {methods.of_file((FOLDER / name).read_bytes()) for name in HASHES}
  assert names == set(methods.METHODS)


def write():
  """Codes photographs, a grey one, an odd and a tiny one in both modes of kmeans."""
  cat = dict(data.sample_photographs())['chelsea']
  images = {
    'photo': cat[40:168, 100:260],
    'grey': np.repeat(cat[40:90, 100:160, 1:2], 3, 2),
    'odd': cat[61:98, 200:213],
    'pixel': cat[:1, :1],
  }
  hashes = {}
  for mode in ('universal', 'image'):
    for lmbda in (0.0009, 0.013):
      codec, released = pretrained('kmeans', lmbda=lmbda, codebook=mode)
      for name, image in images.items():
        file = codec.encode(released, image)
        path = FOLDER / f'kmeans-{mode}-{lmbda}-{name}.cjx'
        data.write_atomically(path, file, overwrite=True)
        hashes[path.name] = digest(pixels(file))
  text = json.dumps(hashes, indent=1) + '\n'
  data.write_atomically(LIST, text.encode(), overwrite=True)


if __name__ == '__main__':
  write()
