"""The engine for Keras 3, on TensorFlow, JAX and PyTorch.

A sparse layer is the plain layer, with `layers.Sparse` before its class. It has
an extra variable beside each weight, and computes as the plain class does, with another
weight (`maps`). `copying` copies models, `containers` has saved and loaded what Keras
makes by itself, `engine` puts them together.
"""
