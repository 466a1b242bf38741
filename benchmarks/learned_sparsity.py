"""A 300-100 network on the 64 pixels of digits: dense, and with learned sparsity.

  python benchmarks/learned_sparsity.py --seeds=0,1,2

Prints accuracy and sparsity of the deployed networks, a line per technique and seed,
and their medians. The defaults were chosen on the validation split.
"""

import statistics

from absl import app, flags

import state_of_sparsity as sos
from state_of_sparsity.backend import keras, tf
from state_of_sparsity.models import digits

_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "A run for each of them.")
_TECHNIQUES = flags.DEFINE_list(
    "techniques", ["dense", "variational_dropout", "l0_regularization"], "What to run."
)
_SPLIT = flags.DEFINE_enum("split", "test", ["validation", "test"], "To score.")
_KL_WEIGHT = flags.DEFINE_float("kl_weight", 1e-4, "Of variational dropout.")
_L0_WEIGHT = flags.DEFINE_float("l0_weight", 6e-4, "Of L0 regularization.")
_RAMP = flags.DEFINE_integer("ramp_length", 2000, "Steps in which the weights grow.")
_EPOCHS = flags.DEFINE_integer("epochs", 300, "Of 20 steps each.")
_RATE = flags.DEFINE_float("learning_rate", 3e-3, "Adam's, at the beginning.")

BATCH = 64


def network():
    return keras.Sequential(
        [
            keras.layers.Dense(300, activation="relu", input_shape=(64,)),
            keras.layers.Dense(100, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def technique(name):
    """The technique of a name; None for "dense"."""
    if name == "dense":
        return None
    if name == "variational_dropout":
        return sos.VariationalDropout(_KL_WEIGHT.value, ramp_length=_RAMP.value)
    return sos.L0Regularization(_L0_WEIGHT.value, ramp_length=_RAMP.value)


def trained(name, seed):
    """The trained network, sparse unless the name is "dense"."""
    keras.utils.set_random_seed(seed)
    model = network()
    if name != "dense":
        model = sos.sparsify(model, technique(name))
    images, labels = digits.splits()["train"]
    steps = _EPOCHS.value * (len(images) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(_RATE.value, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    data = tf.data.Dataset.from_tensor_slices((images.reshape(-1, 64), labels))
    data = data.cache().shuffle(len(images), seed).batch(BATCH, drop_remainder=True)
    needed = [] if name == "dense" else sos.callbacks(model)
    model.fit(data, epochs=_EPOCHS.value, callbacks=needed, verbose=0)
    return model


def accuracy(model):
    images, labels = digits.splits()[_SPLIT.value]
    deployed = sos.strip(model)
    deployed.compile(metrics=["sparse_categorical_accuracy"])
    return deployed.evaluate(images.reshape(-1, 64), labels, verbose=0)[1]


def main(argv):
    del argv
    for name in _TECHNIQUES.value:
        scores = []
        for seed in map(int, _SEEDS.value):
            model = trained(name, seed)
            scores.append((accuracy(model), sos.sparsity_report(model).sparsity))
            print(
                f"{name} seed {seed}: accuracy {scores[-1][0]:.4f}, "
                f"sparsity {scores[-1][1]:.4f}",
                flush=True,
            )
        medians = [statistics.median(column) for column in zip(*scores, strict=True)]
        print(f"{name} median: accuracy {medians[0]:.4f}, sparsity {medians[1]:.4f}")


if __name__ == "__main__":
    app.run(main)
