"""Runs CompressAI's cheng2020-attn with random weights and keeps weights, image and results.

  pip install torch==2.13.0 compressai==1.2.8 safetensors   # in an environment of its own
  python tests/golden/compressai/make.py

writes attn.safetensors beside this file; tests/interop/test_compressai.py compares our networks
with it. Weights are rounded to 16 bits before the model runs, so that the file holds them exactly.
"""

from pathlib import Path

import torch
from compressai.models import Cheng2020Attention
from safetensors.torch import save_file

CHANNELS = 8


def randomise(model: torch.nn.Module) -> None:
  """Moves every parameter off its initial value, so that no branch is trivial."""
  for name, value in model.named_parameters():
    if 'gamma' in name or 'beta' in name:
      value.add_(0.3 * torch.rand_like(value))
    elif 'bias' in name or 'factor' in name or 'quantiles' in name:
      value.add_(torch.rand_like(value) - 0.5)
    else:
      value.mul_(1.5)
    value.copy_(value.half())


def results(model: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
  """Returns what each network of the model puts out, and the likelihoods of y and z."""
  y = model.g_a(x)
  z = model.h_a(y)
  y_hat = torch.round(y)
  z_hat, z_likelihood = model.entropy_bottleneck(z)
  features, context = model.h_s(z_hat), model.context_prediction(y_hat)
  scale, mean = model.entropy_parameters(torch.cat((features, context), 1)).chunk(2, 1)
  symbols = y_hat + torch.round(mean)  # Likely ones and unlikely ones.
  return {
    'y': y,
    'z': z,
    'y_hat': y_hat,
    'z_hat': z_hat,
    'features': features,
    'context': context,
    'scale': scale,
    'mean': mean,
    'symbols': symbols,
    'y_likelihood': model.gaussian_conditional._likelihood(symbols, scale, mean),
    'z_likelihood': z_likelihood,
    'x_hat': model.g_s(y_hat),
  }


def main() -> None:
  """Writes attn.safetensors."""
  torch.manual_seed(0)
  model = Cheng2020Attention(CHANNELS).eval()
  image = torch.randint(0, 256, (1, 3, 64, 128), dtype=torch.uint8)
  with torch.no_grad():
    randomise(model)
    found = results(model, image / 255)
  arrays = {f'result.{name}': value[0].contiguous() for name, value in found.items()}
  parameters = {name for name, _ in model.named_parameters()}
  for name, value in model.state_dict().items():
    exact = value.half() if name in parameters else value
    arrays[f'weight.{name}'] = exact.contiguous()
  save_file({'image': image[0], **arrays}, Path(__file__).with_name('attn.safetensors'))


if __name__ == '__main__':
  main()
