"""Runs: what their settings say, how they are trained, and how they are read again."""
