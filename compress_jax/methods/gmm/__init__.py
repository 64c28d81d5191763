"""Attention, hyperprior and context, and a discretised Gaussian mixture (Cheng et al. 2020)."""
