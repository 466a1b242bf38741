"""Files that the library has saved, version by version: what is in them, and where.

`tests/make_earlier_files.py` has written them, one archive per Keras, technique and
version. They are never written again: whoever changes how models are saved sees here
whether the files of users still load.
"""

import errno
import importlib
import pathlib
import tarfile
import tempfile

import numpy as np

from tests.flavour import (
    IS_KERAS3,
    NAME,
    compiled,
    fit,
    keras,
    outputs_of,
    register,
    sgd,
    sos,
)

# Registers the layers that the files hold.
importlib.import_module(
    "state_of_sparsity.layers" if IS_KERAS3 else "state_of_sparsity.layers.tf_keras"
)

FOLDER = pathlib.Path(__file__).parent / "data"
FEATURES, CLASSES, EXAMPLES = (6, 6, 1), 3, 4
RAMP = {"begin_step": 0, "end_step": 6, "frequency": 1}
STEPS = 3  # Before the files were saved: in the middle of the ramp.


@register
class EarlierBlock(keras.layers.Layer):
    """A custom layer that holds layers in an attribute and in a list."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = keras.layers.MultiHeadAttention(1, 2, name="attention")
        self.dense = [keras.layers.Dense(3, activation="tanh", name="inner")]

    def call(self, inputs):
        return self.dense[0](self.attention(inputs, inputs))


def network():
    """A convolution, statistics, a custom layer with attention, recurrence, a map."""
    inputs = keras.Input(FEATURES)
    x = keras.layers.Conv2D(3, 3, use_bias=False, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Reshape((16, 3))(x)
    x = EarlierBlock(name="block")(x)
    x = keras.layers.SimpleRNN(2, name="recurrent")(x)
    logits = keras.layers.Dense(CLASSES, kernel_regularizer="l2", name="logits")
    return keras.Model(inputs, logits(x), name="network")


def _magnitude(model):
    return sos.sparsify(model, sos.MagnitudePruning(0.6, **RAMP), {"logits": 0.4})


def _fixed_mask(model):
    masks = {
        name: np.random.default_rng(1).random(mask.shape) < 0.5
        for name, mask in sos.weight_masks(model).items()
    }
    return sos.sparsify(model, sos.FixedMask(masks))


def _mixed(model):
    overrides = {"conv": sos.RandomPruning(0.5, **RAMP, seed=2), "logits": None}
    return sos.sparsify(model, sos.VariationalDropout(1e-3, ramp_length=5), overrides)


TECHNIQUES = {
    "magnitude": _magnitude,
    "random": lambda m: sos.sparsify(m, sos.RandomPruning(0.6, **RAMP, seed=1)),
    "global": lambda m: sos.sparsify(
        m, sos.MagnitudePruning(0.6, **RAMP), budget=sos.Global()
    ),
    "fixed_mask": _fixed_mask,
    "variational": lambda m: sos.sparsify(
        m, sos.VariationalDropout(1e-3, ramp_length=5)
    ),
    "l0": lambda m: sos.sparsify(m, sos.L0Regularization(1e-3, ramp_length=5)),
    "mixed": _mixed,
}
DRAWS_NOISE = ("variational", "l0", "mixed")
SUFFIXES = (".keras", ".weights.h5") if IS_KERAS3 else (".keras", ".weights.h5", ".h5")


def sparse_model(name):
    """A sparse model, compiled."""
    return compiled(TECHNIQUES[name](network()), sgd(0.05, momentum=0.9))


def data():
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(EXAMPLES, *FEATURES)).astype("float32")
    return inputs, rng.normal(size=(EXAMPLES, CLASSES)).astype("float32")


def train(model, steps):
    """So many steps, each with all of the data."""
    fit(model, *data(), batch_size=EXAMPLES, epochs=steps)


def checkpoint(model):
    """What the laboratory keeps of a run that goes on."""
    import tensorflow as tf

    return tf.train.Checkpoint(model=model, optimizer=model.optimizer)


def archives():
    """Those of the Keras that the tests run with."""
    return sorted(FOLDER.glob(f"*/{NAME}/*.tar.xz"))


def write(name, version):
    """Makes the archive of a technique, and returns its path.

    Raises:
      FileExistsError: if there is one of that version.
    """
    path = FOLDER / version / NAME / f"{name}.tar.xz"
    if path.exists():
        raise FileExistsError(errno.EEXIST, "is never written again", path)
    keras.utils.set_random_seed(7)
    model = sparse_model(name)
    train(model, STEPS)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        for suffix in SUFFIXES:
            save = model.save_weights if "weights" in suffix else model.save
            save(folder / f"model{suffix}")
        if not IS_KERAS3:
            checkpoint(model).write(str(folder / "checkpoint"))
        expected = {"outputs": outputs_of(model, data()[0])}
        expected |= sos.weight_masks(model)
        train(model, 1)
        expected["trained"] = outputs_of(model, data()[0])
        np.savez(folder / "expected.npz", **expected)
        with tarfile.open(path, "x:xz") as archive:
            for part in sorted(folder.iterdir()):
                archive.add(part, part.name, filter=_anonymous)
    return path


def _anonymous(member):
    """Without the name of who has made it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
