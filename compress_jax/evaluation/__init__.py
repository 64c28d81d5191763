"""Measurement of codecs on images through real files, and the metrics."""
