"""Step time of sparse models over that of the dense one: pruned between mask updates.

The models are trained in one process, in turns of a few steps, so that whatever else
the machine does hits all of them. Prints the medians and their ratios.

The defaults are the model and the batch of the digits runs; at full width:

  python benchmarks/step_time.py --width=1 --image_size=112 --batch_size=16 \
      --rounds=9 --steps=1
"""

import turns
from absl import app, flags

import state_of_sparsity as sos
from state_of_sparsity.backend import keras, tf
from state_of_sparsity.models.resnet import resnet

_DEPTH = flags.DEFINE_integer("depth", 50, "Of the ResNet.")
_WIDTH = flags.DEFINE_float("width", 0.25, "Of the ResNet.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "Pixels per side.")
_BATCH = flags.DEFINE_integer("batch_size", 64, "Images per step.")
_ROUNDS = flags.DEFINE_integer("rounds", 25, "How often the models take turns.")
_TECHNIQUES = flags.DEFINE_list(
    "techniques",
    ["magnitude_pruning"],
    "Or also variational_dropout and l0_regularization.",
)
_STEPS = flags.DEFINE_integer("steps", 4, "Steps per turn.")


# Masks are made at the first step, and not again.
TECHNIQUES = {
    "magnitude_pruning": sos.MagnitudePruning(0.9, 1, 1, 1),
    "variational_dropout": sos.VariationalDropout(1e-4),
    "l0_regularization": sos.L0Regularization(1e-4),
}


def training_step(model, images, labels):
    """A compiled training step, without the overhead of `fit`."""
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    function = model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())
    return lambda: function(batches)


def main(argv):
    del argv
    shape = (_IMAGE_SIZE.value, _IMAGE_SIZE.value, 3)
    images = tf.random.stateless_normal((_BATCH.value, *shape), (0, 0))
    labels = tf.zeros(_BATCH.value, tf.int32)
    dense = resnet(_DEPTH.value, 10, _WIDTH.value, shape, 1e-4)
    steps = {"dense": training_step(dense, images, labels)}
    for name in _TECHNIQUES.value:
        sparse = sos.sparsify(dense, TECHNIQUES[name])
        for callback in sos.callbacks(sparse):
            callback.set_model(sparse)
            callback.on_train_begin()
        steps[name] = training_step(sparse, images, labels)
    for step in steps.values():
        for _ in range(3):
            step()
    turns.print_ratios(turns.take_turns(steps, _ROUNDS.value, _STEPS.value))


if __name__ == "__main__":
    app.run(main)
