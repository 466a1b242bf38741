"""Checks one architecture of `tf_keras.applications`, in a process of its own.

    SOS_KERAS=tf_keras python -m tests.tf_keras.applications MobileNetV2

For each technique: the network is sparsified, trains a step, is stripped to the same
outputs, saved and loaded; then the stripped one is exported. Prints the seconds that
each part took.
"""

import argparse
import contextlib
import inspect
import os
import pathlib
import tempfile
import time

import numpy as np

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from tests.flavour import sites

# The smallest image that is allowed, if it is not of 32 x 32.
SIZES = {"Xception": 71, "InceptionV3": 75, "InceptionResNetV2": 75}
# The smallest of each family.
REPRESENTATIVES = (
    "ConvNeXtTiny",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "InceptionV3",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "NASNetMobile",
    "RegNetX002",
    "ResNet50",
    "ResNet50V2",
    "ResNetRS50",
    "VGG16",
    "Xception",
)
CLASSES = 10
EXAMPLES = 2
PRUNING = {"begin_step": 0, "end_step": 1, "frequency": 1}
CLOSE = 1e-4  # Relative to the largest output.


def names():
    """All architectures that this Keras has."""
    found = vars(keras.applications).items()
    return sorted(name for name, value in found if inspect.isfunction(value))


def make(name):
    size = SIZES.get(name, 32)
    return getattr(keras.applications, name)(
        weights=None,
        input_shape=(size, size, 3),
        classes=CLASSES,
        classifier_activation=None,
    )


def random_masks(model):
    rng = np.random.default_rng(0)
    masks = sos.weight_masks(model)
    return {name: rng.random(mask.shape) < 0.5 for name, mask in masks.items()}


def unregistered(model):
    """Classes of layers that Keras itself does not find when it loads a network."""
    return {
        type(layer).__name__: type(layer)
        for layer in model.layers
        if type(layer).__module__.startswith("tf_keras.src.applications")
    }


def sparsified(model, name):
    """A sparse model by a technique, all of it that the technique has maps for."""
    if name == "magnitude":
        return sos.sparsify(model, sos.MagnitudePruning(0.75, **PRUNING))
    if name == "random":
        return sos.sparsify(model, sos.RandomPruning(0.75, **PRUNING))
    if name == "fixed_mask":
        return sos.sparsify(model, sos.FixedMask(random_masks(model)))
    learned = {"variational": sos.VariationalDropout, "l0": sos.L0Regularization}
    technique = learned[name](1e-6)
    try:
        return sos.sparsify(model, technique)
    except ValueError as error:
        # A kind of layer that the learned techniques do not have.
        if "has no linear map" not in str(error):
            raise
    kinds = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
    without = {
        site.path: None for site in sites(model) if isinstance(site.layer, kinds)
    }
    return sos.sparsify(model, technique, without)


TECHNIQUES = ("magnitude", "random", "fixed_mask", "variational", "l0")


class Clock:
    def __init__(self):
        self.seconds = {}

    @contextlib.contextmanager
    def __call__(self, part):
        begun = time.perf_counter()
        yield
        spent = time.perf_counter() - begun
        self.seconds[part] = self.seconds.get(part, 0.0) + spent


def outputs_of(model, inputs):
    return np.asarray(model(inputs, training=False))


def assert_close(outputs, expected, what):
    assert np.isfinite(expected).all(), what
    error = np.abs(outputs - expected).max() / np.abs(expected).max()
    assert error <= CLOSE, f"{what}: outputs differ by {error:.1e} of the largest"


def check(name, technique, in_graph, folder, clock):
    rng = np.random.default_rng(0)
    with clock("build"):
        keras.utils.set_random_seed(1)
        model = make(name)
        inputs = rng.uniform(0, 255, (EXAMPLES, *model.input_shape[1:]))
        inputs, targets = inputs.astype("float32"), rng.integers(0, CLASSES, EXAMPLES)
    with clock("sparsify"):
        sparse = sparsified(model, technique)
    with clock("train"):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # The gradients of untrained networks, on two small images, are huge.
        optimizer = keras.optimizers.SGD(1e-3, clipnorm=1.0)
        sparse.compile(optimizer, loss, run_eagerly=not in_graph)
        before = [w.numpy() for w in sparse.trainable_weights]
        history = sparse.fit(
            inputs,
            targets,
            batch_size=EXAMPLES,
            callbacks=sos.callbacks(sparse),
            verbose=0,
        )
        assert np.isfinite(history.history["loss"]).all()
        moved = [
            not np.array_equal(one, other)
            for one, other in zip(before, sparse.trainable_weights, strict=True)
        ]
        assert sum(moved) > 0.5 * len(moved), "most weights did not train"
    expected = outputs_of(sparse, inputs)
    with clock("strip"):
        stripped = sos.strip(sparse)
        assert_close(outputs_of(stripped, inputs), expected, "strip")
        report = sos.sparsity_report(sparse)
        assert any(row.technique != "dense" for row in report.layers)
        assert sos.sparsity_report(stripped).sparsity == report.sparsity
    with clock("save and load"):
        sparse.save(folder / "model.keras")
        loaded = keras.models.load_model(
            folder / "model.keras", custom_objects=unregistered(model)
        )
        assert_close(outputs_of(loaded, inputs), expected, "load")
        assert sos.sparsity_report(loaded).sparsity == report.sparsity
    if technique != "magnitude":
        return
    assert report.sparsity > 0.5, report.sparsity
    with clock("export as a SavedModel"):
        sos.export(stripped, folder / "export")
        served = tf.saved_model.load(str(folder / "export"))
        assert_close(np.asarray(served.serve(inputs)), expected, "SavedModel")
    with clock("export for LiteRT"):
        path = folder / "model.tflite"
        sos.export(stripped, path, format="litert")
        interpreter = tf.lite.Interpreter(str(path))
        (place,), (result,) = (
            interpreter.get_input_details(),
            interpreter.get_output_details(),
        )
        interpreter.resize_tensor_input(place["index"], inputs.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(place["index"], inputs)
        interpreter.invoke()
        assert_close(interpreter.get_tensor(result["index"]), expected, "LiteRT")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("architecture", choices=names())
    parser.add_argument("--techniques", nargs="+", default=TECHNIQUES)
    # Tracing a step of a large network takes a minute.
    parser.add_argument("--in_graph", action="store_true")
    given = parser.parse_args()
    for technique in given.techniques:
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            where = pathlib.Path(folder)
            check(given.architecture, technique, given.in_graph, where, clock)
        parts = ", ".join(f"{part} {s:.1f} s" for part, s in clock.seconds.items())
        print(f"{given.architecture}, {technique}: {parts}", flush=True)
        keras.backend.clear_session()
    # TensorFlow takes seconds to free large models.
    os._exit(0)


if __name__ == "__main__":
    main()
