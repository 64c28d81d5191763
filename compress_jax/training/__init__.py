"""Training of float weights from images: steps, losses, stages, checkpoints, progress."""

from compress_jax.runtime.extras import require

require('train', 'optax', 'orbax', 'tensorstore', 'grain', 'tensorboardX', 'filelock')
