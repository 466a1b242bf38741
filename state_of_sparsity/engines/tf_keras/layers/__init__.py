"""Learned layers of `tf_keras`; see `state_of_sparsity.layers.tf_keras`."""
