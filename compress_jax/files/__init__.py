"""Files that are either complete or absent: atomic writes, locks, digests, model files."""
