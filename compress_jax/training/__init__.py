"""From images to float weights: steps, losses, stages, checkpoints, progress."""
