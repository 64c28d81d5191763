"""Files written once must decode to the same pixels or latents in every later version.

`python -m tests.methods.test_golden METHODS` writes those of the shipped tables (kmeans) and of the
small models anew; a change of hashes means a new model id, named in CHANGELOG.md. What learned
methods decode to is kept as latents, by hash, and as images, which may differ by one grey level.
"""

import hashlib
import json
import sys

import numpy as np
import pytest

from compress_jax import methods
from compress_jax.files.atomic import write_atomically
from compress_jax.images import sets
from compress_jax.model_zoo import decoder, pretrained
from tests.helpers import small_models
from tests.helpers.small_models import FOLDER, MODELS

LISTS = {'kmeans': FOLDER / 'sha256.json', 'learned': FOLDER / 'latents.json'}
PIXELS, LATENTS = (json.loads(path.read_text()) if path.exists() else {} for path in LISTS.values())


def digest(image):
  return hashlib.sha256(f'{image.shape}'.encode() + image.tobytes()).hexdigest()


@pytest.mark.parametrize('name', PIXELS)
def test_golden_files_decode_to_their_pixels(name):
  file = (FOLDER / name).read_bytes()
  assert digest(decoder(methods.of_file(file))(file)) == PIXELS[name]


@pytest.mark.parametrize('name', LATENTS)
def test_golden_files_of_learned_methods_decode_to_their_latents(name):
  file = (FOLDER / name).read_bytes()
  codec, released = small_models.load(name.split('-')[0])
  assert small_models.digest(codec.latents(released, file)) == LATENTS[name]


@pytest.mark.parametrize('method', (*MODELS, *small_models.KINDS))
def test_golden_files_of_learned_methods_decode_to_nearly_their_pixels(method, monkeypatch):
  small_models.force_tiles(monkeypatch, **small_models.FEW_SHAPES)
  names = [name for name in LATENTS if name.startswith(method)]
  codec, released = small_models.load(method)
  for name in names:
    image = codec.decode(released, (FOLDER / name).read_bytes())
    expected = sets.load_image((FOLDER / name).with_suffix('.png'))
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_there_are_golden_files_of_every_method():
  names = {methods.of_file((FOLDER / name).read_bytes()) for name in (*PIXELS, *LATENTS)}
  assert names == set(methods.METHODS)


def keep(name, content):
  write_atomically(FOLDER / name, content, overwrite=True)


def images():
  """Photographs, a grey one, an odd and a tiny one."""
  cat = small_models.photographs()['chelsea']
  return {
    'photo': cat[40:168, 100:260],
    'grey': np.repeat(cat[40:90, 100:160, 1:2], 3, 2),
    'odd': cat[61:98, 200:213],
    'pixel': cat[:1, :1],
  }


def write_kmeans():
  """Both modes at two rates."""
  hashes = {}
  for mode in ('universal', 'image'):
    for lmbda in (0.0009, 0.013):
      codec, released = pretrained('kmeans', lmbda=lmbda, codebook=mode)
      for name, image in images().items():
        file = codec.encode(released, image)
        path = f'kmeans-{mode}-{lmbda}-{name}.cjx'
        keep(path, file)
        hashes[path] = digest(codec.decode(released, file))
  keep(LISTS['kmeans'].name, (json.dumps(hashes, indent=1) + '\n').encode())


def write_monochrome():
  """A grey image as version 0.2 writes it, with the flag, of each method and mode."""
  grey = images()['grey']
  codecs = {'kmeans-universal': pretrained('kmeans', lmbda=0.013, codebook='universal')}
  codecs['kmeans-image'] = pretrained('kmeans', lmbda=0.013, codebook='image')
  for name, (codec, released) in codecs.items():
    file, path = codec.encode(released, grey), f'{name}-0.013-monochrome.cjx'
    keep(path, file)
    PIXELS[path] = digest(codec.decode(released, file))
  for method in (*MODELS, *small_models.KINDS):
    codec, released = small_models.load(method, 0.013)
    file, stem = codec.encode(released, grey), f'{method}-0.013-monochrome'
    keep(f'{stem}.cjx', file)
    keep(f'{stem}.png', sets.image_bytes(codec.decode(released, file)))
    LATENTS[f'{stem}.cjx'] = small_models.digest(codec.latents(released, file))
  keep(LISTS['kmeans'].name, (json.dumps(PIXELS, indent=1) + '\n').encode())
  keep(LISTS['learned'].name, (json.dumps(LATENTS, indent=1, sort_keys=True) + '\n').encode())


def write_learned(method):
  """At two rates; gmm codes the portrait on its side."""
  portrait = small_models.photographs()['chelsea'][40:136, 160:220]
  for name in [name for name in LATENTS if name.startswith(method)]:
    del LATENTS[name]
  for lmbda in (0.0009, 0.1):
    codec, released = small_models.load(method, lmbda)
    for name, image in {**images(), 'portrait': portrait}.items():
      file = codec.encode(released, image)
      stem = f'{method}-{lmbda}-{name}'
      keep(f'{stem}.cjx', file)
      keep(f'{stem}.png', sets.image_bytes(codec.decode(released, file)))
      LATENTS[f'{stem}.cjx'] = small_models.digest(codec.latents(released, file))
  keep(LISTS['learned'].name, (json.dumps(LATENTS, indent=1, sort_keys=True) + '\n').encode())


if __name__ == '__main__':
  for chosen in sys.argv[1:]:
    if chosen == 'kmeans':
      write_kmeans()
    elif chosen == 'monochrome':
      write_monochrome()
    else:
      write_learned(chosen)
