"""The command line: one module for each mode."""
