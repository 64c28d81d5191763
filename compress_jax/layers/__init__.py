"""Layers of the float networks: blocks, convolutions, quantisation, likelihoods."""
