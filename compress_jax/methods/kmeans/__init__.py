"""Eigen-value based K-means vector quantisation (Somasundaram & Mary Shanthi Rani 2012)."""
