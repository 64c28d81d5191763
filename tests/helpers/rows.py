"""Rows of a comparison."""

from pathlib import Path

PUBLISHED = Path(__file__).parents[2] / 'experiments' / 'published'


def row(codec='jpeg', at=1, image='one', rate=1.0, psnr=25.0, **others):
  """A row of a 100x100 image."""
  knob = 'lambda' if codec.startswith('kmeans') else 'quality'
  size = round(rate * 1250)
  fixed = {
    'method': codec.split('-')[0], 'codec': codec, knob: at, 'image': image, 'protocol': 'crop',
    'width': 100, 'height': 100, 'bytes': size, 'bpp': rate, 'psnr': psnr, 'ms_ssim': 0.9,
    'encode_s': 0.5, 'decode_s': 0.25, 'sha256_file': 'ab', 'sha256_pixels': 'cd',
    'split': {'file': size},
  }  # fmt: skip
  return {**fixed, **others}
