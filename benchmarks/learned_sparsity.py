"""A 300-100 network on the 64 pixels of digits: dense, and with each technique.

  python benchmarks/learned_sparsity.py --seeds=0,1,2
  KERAS_BACKEND=jax python benchmarks/learned_sparsity.py --keras=keras

Prints accuracy and sparsity of the deployed networks and the inputs that their layers
have left, a line per technique and seed, and the medians. The defaults were chosen on
the validation split.
"""

import importlib
import statistics

import figures
import numpy as np
from absl import app, flags

import state_of_sparsity as sos
from state_of_sparsity.models.images import digits

_KERAS = flags.DEFINE_enum("keras", "tf_keras", ["keras", "tf_keras"], "Which Keras.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "A run for each of them.")
_TECHNIQUES = flags.DEFINE_list(
    "techniques",
    [
        "dense",
        "magnitude_pruning",
        "random_pruning",
        "variational_dropout",
        "l0_regularization",
        "l0_by_inputs",
    ],
    "What to run.",
)
_SPARSITY = flags.DEFINE_float("sparsity", 0.95, "Of pruning.")
_SPLIT = flags.DEFINE_enum("split", "test", ["validation", "test"], "To score.")
_KL_WEIGHT = flags.DEFINE_float("kl_weight", 1e-4, "Of variational dropout.")
_L0_WEIGHT = flags.DEFINE_float("l0_weight", 6e-4, "Of L0 regularization.")
_RAMP = flags.DEFINE_integer("ramp_length", 2000, "Steps in which the weights grow.")
_EPOCHS = flags.DEFINE_integer("epochs", 300, "Of 20 steps each.")
_RATE = flags.DEFINE_float("learning_rate", 3e-3, "Adam's, at the beginning.")

BATCH = 64
STEPS_PER_EPOCH = 1257 // BATCH


def network(keras):
    return keras.Sequential(
        [
            keras.layers.InputLayer((64,)),
            keras.layers.Dense(300, activation="relu"),
            keras.layers.Dense(100, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def technique(name):
    """The technique of a name; None for "dense"."""
    if name == "dense":
        return None
    steps = _EPOCHS.value * STEPS_PER_EPOCH
    if name in ("magnitude_pruning", "random_pruning"):
        return sos.TECHNIQUES[name](_SPARSITY.value, steps // 4, steps * 3 // 4, 100)
    if name == "variational_dropout":
        return sos.VariationalDropout(_KL_WEIGHT.value, ramp_length=_RAMP.value)
    structure = "inputs" if name == "l0_by_inputs" else "weights"
    return sos.L0Regularization(
        _L0_WEIGHT.value, ramp_length=_RAMP.value, structure=structure
    )


def trained(keras, name, seed):
    """The trained network, sparse unless the name is "dense"."""
    keras.utils.set_random_seed(seed)
    model = network(keras)
    if name != "dense":
        model = sos.sparsify(model, technique(name))
    images, labels = digits.splits()["train"]
    steps = _EPOCHS.value * STEPS_PER_EPOCH
    rate = keras.optimizers.schedules.CosineDecay(_RATE.value, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    # The batches of all epochs, the same with every Keras.
    rng = np.random.default_rng(seed)
    orders = [
        rng.permutation(len(images))[: STEPS_PER_EPOCH * BATCH]
        for _ in range(_EPOCHS.value)
    ]
    order = np.concatenate(orders)
    needed = [] if name == "dense" else sos.callbacks(model)
    model.fit(
        images.reshape(-1, 64)[order],
        labels[order],
        batch_size=BATCH,
        shuffle=False,
        callbacks=needed,
        verbose=0,
    )
    return model


def inputs_left(model):
    """How many inputs of each layer have weights: of the first, pixels."""
    kernels = [layer.get_weights()[0] for layer in sos.strip(model).layers]
    return "-".join(str(np.count_nonzero(kernel.any(1))) for kernel in kernels)


def accuracy(model):
    images, labels = digits.splits()[_SPLIT.value]
    deployed = sos.strip(model)
    logits = deployed.predict(images.reshape(-1, 64), verbose=0)
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


def main(argv):
    del argv
    keras = importlib.import_module(_KERAS.value)
    found = []
    for name in _TECHNIQUES.value:
        scores = []
        for seed in map(int, _SEEDS.value):
            model = trained(keras, name, seed)
            scores.append((accuracy(model), sos.sparsity_report(model).sparsity))
            print(
                f"{name} seed {seed}: accuracy {scores[-1][0]:.4f}, "
                f"sparsity {scores[-1][1]:.4f}, inputs {inputs_left(model)}",
                flush=True,
            )
        medians = [statistics.median(column) for column in zip(*scores, strict=True)]
        found += [
            figures.Figure(name, "accuracy, %", 100 * medians[0]),
            figures.Figure(name, "sparsity, %", 100 * medians[1]),
        ]
    figures.publish(found)


if __name__ == "__main__":
    app.run(main)
