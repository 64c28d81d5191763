"""Times CompressAI's cheng2020 models on one image: the other side of `bench codec`.

  PEER/bin/python experiments/bench_codec_peer.py IMAGE [--model=cheng2020-attn]
    [--channels=128] [--bpp=0.85] [--repeats=5] [--threads=2] [--seed=0] [--save=PATH.pth]

Runs in an environment of its own, for CompressAI needs numpy below 2. Python 3.11, Linux:

  python3.11 -m venv PEER
  PEER/bin/pip install torch==2.13.0 torchvision==0.28.0
  PEER/bin/pip install --no-deps compressai==1.2.8
  PEER/bin/pip install 'numpy<2' pillow requests tqdm scipy einops pandas
  PEER/bin/pip install pytorch-msssim torch-geometric

PyTorch and torchvision must be of one kind, as those of one index are. Where torch is a CPU
build and torchvision the CUDA build of PyPI, install torchvision with --no-deps and delete the
line `_meta_registrations,` from its __init__.py: its compiled part, unused here, cannot load.

Weights are random: their values cost no time, but how much is in the latents does. So the last
convolution of the analysis is scaled, channel by channel, until every channel of y has one
standard deviation, the entropy parameters predict that scale, and the deviation is searched for
which the file has the bits per pixel asked for. All of it is in the weights that --save writes.

Prints one line of JSON; seconds are medians in a warm process:
  encode, decode: u8 image to bytes and back; analysis, hyper_analysis, hyper_synthesis,
  synthesis: each network alone; encode_rest, decode_rest: what the networks do not explain;
  bpp: of all bytes; nonzero: symbols of y that are not 0, per pixel.
Measure on idle cores: PyTorch's threads wait for each other, and where something else runs on
a core, two of them were seen to take ten times as long as --threads=1 does.
"""

import argparse
import json
import statistics
import struct
import time
from collections.abc import Callable
from typing import Any

import compressai
import numpy as np
import torch
from compressai.models import Cheng2020Anchor, Cheng2020Attention
from PIL import Image

MODELS = {'cheng2020-anchor': Cheng2020Anchor, 'cheng2020-attn': Cheng2020Attention}
HEADER = struct.Struct('>6I')  # Height, width, rows and columns of z, bytes of y and z.
CELL = 64  # Pixels of a hyper-latent's side.
WITHIN = 0.05  # Tolerance, relative to the bits per pixel asked for.


def encode(model: Any, image: np.ndarray) -> bytes:
  """All bytes of an image u8[H, W, 3], zero-padded around to whole hyper-latents."""
  height, width = image.shape[:2]
  coded = model.compress(padded(image))
  y, z = (strings[0] for strings in coded['strings'])
  return HEADER.pack(height, width, *coded['shape'], len(y), len(z)) + y + z


def decode(model: Any, data: bytes) -> np.ndarray:
  """The image u8[H, W, 3] of `encode`'s bytes."""
  height, width, rows, columns, split, _ = HEADER.unpack_from(data)
  body = data[HEADER.size :]
  out = model.decompress([[body[:split]], [body[split:]]], (rows, columns))['x_hat']
  top, left = (out.shape[2] - height) // 2, (out.shape[3] - width) // 2
  pixels = out[0, :, top : top + height, left : left + width].clamp(0, 1) * 255
  return pixels.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def padded(image: np.ndarray) -> torch.Tensor:
  """u8[H, W, 3] to f32[1, 3, H', W'] in [0, 1], the image in the middle."""
  x = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous().float() / 255
  below, right = -x.shape[2] % CELL, -x.shape[3] % CELL
  around = (right // 2, right - right // 2, below // 2, below - below // 2)
  return torch.nn.functional.pad(x, around)


def build(name: str, channels: int, x: torch.Tensor, bits: float) -> Any:
  """A model with random weights whose file of `x` has about `bits`."""
  model = MODELS[name](channels).eval()
  head = model.entropy_parameters[-1]
  head.weight.mul_(0.01)
  head.bias.zero_()
  tail = model.g_a[-2:] if name == 'cheng2020-attn' else model.g_a[-1:]
  features = model.g_a[: -len(tail)](x)
  low, high = 0.01, 64.0  # Standard deviations of y.
  for _ in range(24):
    middle = (low * high) ** 0.5
    y = spread(tail, features, middle)
    head.bias[:channels] = middle  # The first half are scales, the second means.
    got = estimate(model, y)
    if abs(got / bits - 1) < WITHIN / 10:
      break
    low, high = (middle, high) if got < bits else (low, middle)
  model.update(force=True)
  return model


def spread(tail: Any, features: torch.Tensor, sigma: float) -> torch.Tensor:
  """The latents y of `features` after changing the end of the analysis, a convolution first.

  Its channels are scaled and shifted until those of y have mean 0 and deviation `sigma`. The
  attention module that may follow is not linear: some rounds of correction settle it.
  """
  for _ in range(6):
    deviation, mean = torch.std_mean(tail(features), (0, 2, 3))
    gain = (sigma / deviation).clamp(0.1, 10)
    tail[0].weight.mul_(gain[:, None, None, None])
    tail[0].bias.mul_(gain).sub_(mean * gain)
  return tail(features)


def estimate(model: Any, y: torch.Tensor) -> float:
  """Bits of the latents by the model's own likelihoods."""
  z_hat, z_likelihood = model.entropy_bottleneck(model.h_a(y))
  context = model.context_prediction(torch.round(y))
  seen = torch.cat((model.h_s(z_hat), context), 1)
  scale, mean = model.entropy_parameters(seen).chunk(2, 1)
  y_likelihood = model.gaussian_conditional(y, scale, means=mean)[1]
  return float(-torch.log2(y_likelihood).sum() - torch.log2(z_likelihood).sum())


def count_nonzero(model: Any, image: np.ndarray) -> int:
  """How many symbols of y are not 0."""
  counts = []
  quantize = model.gaussian_conditional.quantize

  def counting(inputs: torch.Tensor, mode: str, means: torch.Tensor | None = None) -> torch.Tensor:
    symbols = quantize(inputs, mode, means)
    counts.append(int(torch.count_nonzero(symbols)))
    return symbols

  model.gaussian_conditional.quantize = counting
  encode(model, image)
  model.gaussian_conditional.quantize = quantize
  return sum(counts)


def seconds(function: Callable[..., Any], *arguments: Any, repeats: int) -> float:
  """The median time of a call, after one that is not counted."""
  times = []
  for _ in range(repeats + 1):
    start = time.perf_counter()
    function(*arguments)
    times.append(time.perf_counter() - start)
  return statistics.median(times[1:])


def measure(model: Any, image: np.ndarray, *, repeats: int) -> dict[str, float]:
  """Times and sizes of one image."""
  data = encode(model, image)
  x = padded(image)
  y = model.g_a(x)
  z = model.h_a(y)
  took = {
    'encode': seconds(encode, model, image, repeats=repeats),
    'decode': seconds(decode, model, data, repeats=repeats),
    'analysis': seconds(model.g_a, x, repeats=repeats),
    'hyper_analysis': seconds(model.h_a, y, repeats=repeats),
    'hyper_synthesis': seconds(model.h_s, z, repeats=repeats),
    'synthesis': seconds(model.g_s, y, repeats=repeats),
  }
  shared = took['hyper_synthesis']
  took['encode_rest'] = took['encode'] - took['analysis'] - took['hyper_analysis'] - shared
  took['decode_rest'] = took['decode'] - took['synthesis'] - shared
  pixels = image.shape[0] * image.shape[1]
  sizes = {'bpp': 8 * len(data) / pixels, 'nonzero': count_nonzero(model, image) / pixels}
  return {**took, **sizes, 'bytes': len(data)}


def arguments() -> argparse.Namespace:
  """What the command line says."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('image')
  parser.add_argument('--model', choices=MODELS, default='cheng2020-attn')
  parser.add_argument('--channels', type=int, default=128)
  parser.add_argument('--bpp', type=float, default=0.85)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--threads', type=int, default=2)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--save', help='where the weights go')
  return parser.parse_args()


@torch.no_grad()
def main() -> None:
  """Builds, measures, prints."""
  options = arguments()
  torch.set_num_threads(options.threads)
  torch.manual_seed(options.seed)
  image = np.array(Image.open(options.image).convert('RGB'))
  bits = options.bpp * image.shape[0] * image.shape[1] - 8 * HEADER.size
  model = build(options.model, options.channels, padded(image), bits)
  if options.save:
    torch.save({'state_dict': model.state_dict()}, options.save)
  result = measure(model, image, repeats=options.repeats)
  if abs(result['bpp'] / options.bpp - 1) > WITHIN:
    raise SystemExit(f'got {result["bpp"]:.3f} bits per pixel, not {options.bpp}')
  record = {**vars(options), 'height': image.shape[0], 'width': image.shape[1]}
  versions = {'compressai': compressai.__version__, 'torch': torch.__version__}
  print(json.dumps({**record, **versions, **result}))


if __name__ == '__main__':
  main()
