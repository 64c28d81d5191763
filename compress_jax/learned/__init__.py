"""From the parts of a learned method to its codec."""
