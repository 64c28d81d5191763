"""What the coder sees: integer networks, integer tables, the same bits on every machine."""
