"""Data on disk, as TensorFlow Datasets prepares them."""
