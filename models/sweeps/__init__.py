"""Sweeps: many runs with different flags, several at a time."""
