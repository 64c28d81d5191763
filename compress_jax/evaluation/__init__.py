"""Codecs measured on images through real files, and the metrics."""
