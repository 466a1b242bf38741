"""Classifying images: a ResNet, its datasets, and how it is trained."""
