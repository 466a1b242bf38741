"""The replicas of a `tf.distribute` strategy, and what is theirs together."""

from state_of_sparsity.engines.tf_keras.backend import tf


def replica() -> tf.Tensor | None:
    """The number of the replica that computes; None where there is one alone."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return tf.cast(context.replica_id_in_sync_group, tf.int32)


def summed(tensor: tf.Tensor) -> tf.Tensor:
    """The sum over the replicas; the tensor itself where there is one alone."""
    if replica() is None:
        return tensor
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)


def across_replicas(update) -> None:
    """Calls `update(strategy)` in cross-replica context."""
    context = tf.distribute.get_replica_context()
    if context is None:
        update(tf.distribute.get_strategy())
    else:
        context.merge_call(update)


def update_copies(strategy, function, variable, value) -> None:
    """Calls `function(variable, value)` for the copy of each replica."""
    if tf.distribute.has_strategy():
        strategy.extended.update(variable, function, args=(value,))
    else:
        # Outside of its strategy's scope, a variable takes care of its copies.
        function(variable, value)
