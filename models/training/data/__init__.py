"""Data on disk: what TensorFlow Datasets has prepared, and what is damaged."""
