"""What the backward pass of a sparse weight tells its technique.

A variable that is overwritten with its gradient takes what the backward pass gives for
it: every optimizer of Keras assigns that as it is. So a technique learns of gradients,
those of masked weights included, on every backend and in any loop.
"""

from keras import ops

from state_of_sparsity.engines.keras3 import private
from state_of_sparsity.engines.keras3.noise import Noise
from state_of_sparsity.techniques.state import BACKWARD, OPTIMIZER

# Of a layer: how many backward passes the last update by an optimizer has heard of.
HEARD = "backward_passes"


def add_variable(layer) -> None:
    """Gives a layer the count of backward passes, if its technique has a use for it."""
    if any(weight.names(BACKWARD) for weight in layer.sparse_weights):
        private.extra_variable(
            layer,
            HEARD,
            None,
            shape=(),
            dtype="float32",
            initializer="zeros",
            trainable=True,
            overwrite_with_gradient=True,
            aggregation="only_first_replica",
        )


def used_weight(layer, weight):
    """The weight in training, with the technique's backward pass."""
    technique, (theta, state) = layer.technique, weight.differentiable_values()
    step = private.in_full_precision(layer.training_step)
    noise = Noise(layer, weight.position)
    heard, trained = weight.names(BACKWARD), weight.names(OPTIMIZER)
    names = [*heard, *trained]
    counts = [getattr(layer, HEARD)] if heard and not weight.position else []
    counts = [ops.convert_to_tensor(private.in_full_precision(n)) for n in counts]

    def given(values):
        """Theta, and the state, with the values of what gradients pass to."""
        return values[0], state | dict(zip(names, values[1:], strict=False))

    def forward(*values):
        return technique.training_weight(*given(values), step, noise)

    def backward(gradient, *values):
        theta, state = given(values)
        slope, new = technique.backward(theta, state, gradient, step)
        whole = private.summed_over_replicas(gradient) if heard else gradient
        slopes = [new[name] for name in trained]
        if whole is not gradient:
            # What replicas have in common, so that their state stays the same.
            _, new = technique.backward(theta, state, whole, step)
        fed_back = [new.get(name, state[name]) for name in heard]
        return slope, *fed_back, *slopes, *map(ops.ones_like, counts)

    values = [state[name] for name in names]
    return private.with_gradient(forward, backward, theta, *values, *counts)


def check(layer, due, step) -> None:
    """Has a step fail whose renewal is due and that was not told what it depends on.

    Raises:
      RuntimeError: with the reason; on TensorFlow not where XLA compiles the step.
    """
    if not hasattr(layer, HEARD):
        return
    heard = private.in_full_precision(getattr(layer, HEARD))
    # In the first step, nothing can have been.
    is_lost = ops.logical_and(ops.not_equal(heard, 1.0), step > 1)
    private.fail_if(
        ops.logical_and(due, is_lost),
        f"{type(layer.technique).__name__} of layer {layer.name!r} depends on its "
        "gradients, which an optimizer of Keras hands over: one backward pass for each "
        "of its updates. Train with keras.optimizers, by `fit`, `apply_gradients` or "
        "`stateless_apply`, on all trainable variables, and do not add up the "
        "gradients of several passes. A frozen layer gets none, nor does one whose "
        "gradients have overflowed in all steps (use a lower loss scale).",
    )
