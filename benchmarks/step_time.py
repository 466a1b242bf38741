"""Step time of sparse models over that of the dense one, with either Keras.

The models are trained in one process, in turns of a few steps, so that whatever else
the machine does hits all of them. Prints medians, their ratios, images per second and
the peak of memory, as JSON too. Magnitude pruning is measured between renewals of its
masks. Keras 3 takes the backend of KERAS_BACKEND, and whatever accelerator that finds:

  KERAS_BACKEND=jax python benchmarks/step_time.py --model=cnn \
      --techniques=magnitude_pruning,l0_regularization,variational_dropout

The defaults are the model and the batch of the digits runs; at full width:

  python benchmarks/step_time.py --width=1 --image_size=112 --batch_size=16 \
      --rounds=9 --steps=1
"""

import importlib
import json
import os
import resource
import statistics

import numpy as np
import turns
from absl import app, flags

import state_of_sparsity as sos
from state_of_sparsity.models.images.resnet import resnet

_KERAS = flags.DEFINE_enum("keras", "tf_keras", ["keras", "tf_keras"], "Which Keras.")
_MODEL = flags.DEFINE_enum("model", "resnet", ["resnet", "cnn"], "Network.")
_DEPTH = flags.DEFINE_integer("depth", 50, "Of the ResNet.")
_WIDTH = flags.DEFINE_float("width", 0.25, "Of the ResNet.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "Pixels per side.")
_BATCH = flags.DEFINE_integer("batch_size", 64, "Images per step.")
_ROUNDS = flags.DEFINE_integer("rounds", 25, "How often the models take turns.")
_STEPS = flags.DEFINE_integer("steps", 4, "Steps per turn.")
_JIT = flags.DEFINE_enum(
    "jit", "auto", ["auto", "true", "false"], "Whether XLA compiles the steps."
)
_PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "mixed_bfloat16", "mixed_float16"], "Policy."
)
_JSON = flags.DEFINE_string("json", None, "File to write the figures to.")
_TECHNIQUES = flags.DEFINE_list(
    "techniques",
    ["magnitude_pruning"],
    "Or also random_pruning, variational_dropout and l0_regularization.",
)

# Masks are made at the first step, and not again.
TECHNIQUES = {
    "magnitude_pruning": sos.MagnitudePruning(0.9, 1, 1, 1),
    "random_pruning": sos.RandomPruning(0.9, 1, 1, 1),
    "variational_dropout": sos.VariationalDropout(1e-4),
    "l0_regularization": sos.L0Regularization(1e-4),
}


def digits_cnn(keras, shape):
    """Two convolutions and two dense layers, as for digits of 8x8 pixels."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(shape) if _KERAS.value == "keras" else layers.Input(shape),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, dtype="float32"),
        ]
    )


def training_step(keras, model, images, labels):
    """A call that trains one step and waits for it."""
    options = {} if _JIT.value == "auto" else {"jit_compile": _JIT.value == "true"}
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **options,
    )
    if _KERAS.value == "tf_keras" or keras.backend.backend() == "tensorflow":
        tf = importlib.import_module("tensorflow")
        function = getattr(model, "train_function", None) or model.make_train_function()
        function = function or model.train_function
        batches = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())
        return lambda: function(batches)
    # `train_on_batch` writes the state back after each step on JAX; `fit` does not.
    many = np.tile(images, (_STEPS.value, 1, 1, 1)), np.tile(labels, _STEPS.value)
    return lambda: model.fit(
        *many, batch_size=_BATCH.value, epochs=1, verbose=0, shuffle=False
    )


def peak_memory() -> dict[str, float]:
    """The most memory taken so far, in MiB: of the process, of an accelerator."""
    unit = 1024 if os.uname().sysname == "Linux" else 1024**2
    peaks = {
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    }
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if _KERAS.value == "keras" and backend == "jax":
        statistics_ = importlib.import_module("jax").devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in statistics_:
            peaks["device"] = statistics_["peak_bytes_in_use"] / 2**20
    if _KERAS.value == "keras" and backend == "torch":
        torch = importlib.import_module("torch")
        if torch.cuda.is_available():
            peaks["device"] = torch.cuda.max_memory_allocated() / 2**20
    return peaks


def main(argv):
    del argv
    keras = importlib.import_module(_KERAS.value)
    keras.mixed_precision.set_global_policy(
        _PRECISION.value
    ) if _KERAS.value == "tf_keras" else keras.config.set_dtype_policy(_PRECISION.value)
    size = _IMAGE_SIZE.value
    rng = np.random.default_rng(0)
    if _MODEL.value == "cnn":
        shape = (8, 8, 1)
        dense = digits_cnn(keras, shape)
    else:
        shape = (size, size, 3)
        dense = resnet(_DEPTH.value, 10, _WIDTH.value, shape, 1e-4, keras=keras)
    images = rng.normal(size=(_BATCH.value, *shape)).astype("float32")
    labels = np.zeros(_BATCH.value, "int32")
    models = {"dense": dense}
    for name in _TECHNIQUES.value:
        models[name] = sos.sparsify(dense, TECHNIQUES[name])
    steps, calls = {}, _STEPS.value
    for name, model in models.items():
        if name != "dense":
            for callback in sos.callbacks(model):
                callback.set_model(model)
                callback.on_train_begin()
        steps[name] = training_step(keras, model, images, labels)
    one_call_is_one_step = (
        _KERAS.value == "tf_keras" or keras.backend.backend() == "tensorflow"
    )
    for step in steps.values():
        for _ in range(3):
            step()
    times = turns.take_turns(steps, _ROUNDS.value, calls if one_call_is_one_step else 1)
    if not one_call_is_one_step:
        times = {name: [t / calls for t in values] for name, values in times.items()}
    turns.print_ratios(times)
    medians = {name: statistics.median(values) for name, values in times.items()}
    figures = {
        "keras": _KERAS.value,
        "backend": keras.backend.backend(),
        "model": _MODEL.value,
        "seconds_per_step": medians,
        "over_dense": {name: t / medians["dense"] for name, t in medians.items()},
        "images_per_second": {n: _BATCH.value / t for n, t in medians.items()},
        "peak_memory_mib": peak_memory(),
    }
    print(json.dumps(figures))
    if _JSON.value:
        with open(_JSON.value, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2)


if __name__ == "__main__":
    app.run(main)
