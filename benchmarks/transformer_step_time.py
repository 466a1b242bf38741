"""Step time of the sparse base Transformer over that of the dense one, and its memory.

Each technique has a process, in which its model and the dense one train in turns, on
batches of 2,048 tokens. For the memory of one technique, run it alone:
--techniques=variational_dropout --rounds=1.
"""

import resource
import subprocess
import sys

import numpy as np
import turns
from absl import app, flags

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.training.losses import SmoothedCrossEntropy
from state_of_sparsity.models.translation.transformer import Transformer

# Masks are made at the first step, and not again.
TECHNIQUES = {
    "dense": None,
    "magnitude_pruning": sos.MagnitudePruning(0.8, 1, 1, 1),
    "random_pruning": sos.RandomPruning(0.8, 1, 1, 1),
    "variational_dropout": sos.VariationalDropout(2.22e-8),
    "l0_regularization": sos.L0Regularization(2.89e-7),
}

_TECHNIQUES = flags.DEFINE_list(
    "techniques", list(TECHNIQUES), "What to run; the ratios are to the first."
)
_VOCABULARY = flags.DEFINE_integer("vocabulary_size", 33_288, "Number of subwords.")
_LAYERS = flags.DEFINE_integer("layers", 6, "Of the encoder and of the decoder.")
_ROWS = flags.DEFINE_integer("rows", 32, "Of 64 tokens each, in a batch.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often the models take turns.")


def batch():
    """Random tokens, two sentences in each row."""
    shape = (_ROWS.value, 64)
    rng = np.random.default_rng(0)
    segments = np.broadcast_to(np.repeat([1, 2], 32), shape).astype("int32")
    positions = np.broadcast_to(np.tile(np.arange(32), 2), shape).astype("int32")
    inputs = {}
    for side in ("source", "target"):
        inputs[side] = rng.integers(3, _VOCABULARY.value, shape).astype("int32")
        inputs[f"{side}_segments"] = segments
        inputs[f"{side}_positions"] = positions
    return inputs, inputs["target"]


def training_step(name, data):
    """A compiled training step that has been traced, without the overhead of `fit`."""
    model = Transformer(_VOCABULARY.value, _LAYERS.value)
    model.build()
    if TECHNIQUES[name] is not None:
        model = sos.sparsify(model, TECHNIQUES[name])
        for callback in sos.callbacks(model):
            callback.set_model(model)
            callback.on_train_begin()
    model.compile(keras.optimizers.Adam(1e-4), SmoothedCrossEntropy(0.1))
    function = model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors(data).repeat())
    function(batches)
    return lambda: function(batches)


def main(argv):
    del argv
    first, *others = _TECHNIQUES.value
    if len(others) > 1:
        for name in others:
            # Of a flag that is there twice, the last one counts.
            pair = f"--techniques={first},{name}"
            subprocess.run([sys.executable, *sys.argv, pair], check=True)
        return
    data = batch()
    steps = {name: training_step(name, data) for name in _TECHNIQUES.value}
    turns.print_ratios(turns.take_turns(steps, _ROUNDS.value))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory of the process: {peak / 2**20:.1f} GiB")


if __name__ == "__main__":
    app.run(main)
