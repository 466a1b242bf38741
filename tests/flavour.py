"""Which Keras, on which backend, the tests run with: the one place that asks.

Environment:
  SOS_KERAS: "keras" (Keras 3, the default) or "tf_keras".
  KERAS_BACKEND: of Keras 3, "tensorflow" (the default), "jax" or "torch".

Importing this module imports that Keras, and with it a backend with two CPU devices.
"""

import importlib
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

NAME = os.environ.get("SOS_KERAS", "keras")
if NAME not in ("keras", "tf_keras"):
    raise ValueError(f"SOS_KERAS must be keras or tf_keras. Received: {NAME!r}")
BACKEND = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
if NAME == "tf_keras" and BACKEND != "tensorflow":
    raise ValueError(f"tf_keras needs KERAS_BACKEND=tensorflow. Received: {BACKEND!r}")
IS_KERAS3 = NAME == "keras"
# As it is called in the table of features.
FLAVOUR = f"keras-{BACKEND}" if IS_KERAS3 else "tf_keras"

if BACKEND == "jax":
    # Read when JAX is imported.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=2"
    # Tiny models run for milliseconds and compile for seconds.
    importlib.import_module("jax").config.update("jax_disable_most_optimizations", True)
elif BACKEND == "torch":
    # More threads than a tiny model has work for cost more than they give.
    importlib.import_module("torch").set_num_threads(1)
else:
    _tf = importlib.import_module("tensorflow")
    # Has to be said before TensorFlow makes its first tensor.
    _tf.config.set_logical_device_configuration(
        _tf.config.list_physical_devices("CPU")[0],
        [_tf.config.LogicalDeviceConfiguration()] * 2,
    )

keras = importlib.import_module(NAME)

import numpy as np  # noqa: E402
import pytest  # noqa: E402

import state_of_sparsity as sos  # noqa: E402
from state_of_sparsity.engines import engine_of  # noqa: E402

# Marks of what is the same in tf_keras, too, where the slow tests ask for it.
ON_PYTORCH = [pytest.mark.any_backend, *[pytest.mark.slow] * (not IS_KERAS3)]


def to_numpy(value):
    """The value of a tensor or variable, as NumPy's array."""
    if IS_KERAS3:
        return np.asarray(keras.ops.convert_to_numpy(value))
    # Behind a variable of mixed precision there is the one that is stored.
    return np.asarray(getattr(value, "_variable", value))


def outputs_of(model, inputs, **arguments):
    """What a model or layer gives, as NumPy's array; in inference unless told."""
    arguments.setdefault("training", False)
    return to_numpy(model(inputs, **arguments)).astype("float32")


def sgd(learning_rate=0.1, **arguments):
    return keras.optimizers.SGD(learning_rate, **arguments)


def from_logits():
    """Cross-entropy of integer labels."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(model, optimizer=None, loss="mse", **arguments):
    """The model, compiled for plain SGD, so that a few steps take the least time.

    TensorFlow runs at once what it would trace for a second, and XLA compile for more.
    A test of graphs passes `run_eagerly=False`, and so does one that counts steps of a
    layer that a step uses several times: tf_keras counts them in graphs.
    """
    if BACKEND == "tensorflow":
        arguments.setdefault("run_eagerly", True)
    if IS_KERAS3 and BACKEND != "jax":
        arguments.setdefault("jit_compile", False)
    model.compile(optimizer or sgd(), loss, **arguments)
    return model


def fit(model, inputs, targets, **arguments):
    """Trains a compiled sparse model, and returns its losses by epoch."""
    given = arguments.pop("callbacks", [])
    defaults = {"batch_size": 4, "shuffle": False, "verbose": 0}
    history = model.fit(
        inputs,
        targets,
        callbacks=[*sos.callbacks(model), *given],
        **(defaults | arguments),
    )
    return history.history["loss"]


def begin_training(model):
    """What a loop without `fit` does first; Keras 3 needs nothing of it."""
    for callback in sos.callbacks(model):
        callback.set_model(model)
        callback.on_train_begin()


def sites(model):
    """The sites of a model; see `state_of_sparsity.engines.conversion.Site`."""
    return list(engine_of(model).sites(model))


def sparse_layers(model):
    return [site.layer for site in sites(model) if site.is_sparse]


def plain_part(layer):
    """What of a sparse layer has the weights: in tf_keras, pruning wraps a layer."""
    return getattr(layer, "layer", layer)


def step_of(layer):
    """How many training steps a sparse layer has counted."""
    names = ("training_step", "pruning_step")
    step = next(getattr(layer, name) for name in names if hasattr(layer, name))
    return int(to_numpy(step))


def steps_of(model):
    """The different counts of the sparse layers of a model."""
    return {step_of(layer) for layer in sparse_layers(model)}


def register(cls):
    """Registers a class, so that Keras loads what it saves of it.

    By its module, too: the tests of one process have several of one name.
    """
    return keras.saving.register_keras_serializable(cls.__module__)(cls)
