"""Data from disk: datasets that TensorFlow Datasets has prepared, and what is damaged."""
