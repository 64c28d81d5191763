"""Rows to curves, figures, tables and one HTML page."""
