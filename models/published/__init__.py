"""Checkpoints that the authors of the paper released."""
