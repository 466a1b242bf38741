"""The engine for models of `tf_keras` (Keras 2), built on TF-MOT's pruning wrapper."""
