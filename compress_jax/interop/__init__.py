"""Weights from elsewhere: other projects' checkpoints as parameters of ours."""
