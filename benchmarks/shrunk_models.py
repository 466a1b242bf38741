"""Masked models beside the smaller ones that `sos.shrink` makes of them.

KERAS_BACKEND=tensorflow python benchmarks/shrunk_models.py --models=resnet50,gpt2

Half of the channels of ResNet-50 are masked, for images of 224x224, and half of the
heads and feed-forward units of GPT-2 small, whose table is short and which gives no
logits. Weights are random. Both models of a pair take turns in ONNX Runtime.
"""

import os
import tempfile

import engines
import figures
import keras
import numpy as np
import subjects
import turns
from absl import app, flags

import state_of_sparsity as sos
from state_of_sparsity.engines import engine_of

_MODELS = flags.DEFINE_list("models", ["resnet50", "gpt2"], "Which ones.")
_LAYERS = flags.DEFINE_integer("layers", 12, "Of GPT-2.")
_WIDTH = flags.DEFINE_integer("width", 768, "Of GPT-2: a head for each 64.")
_VOCABULARY = flags.DEFINE_integer("vocabulary", 1000, "Words of GPT-2's table.")
_LENGTH = flags.DEFINE_integer("length", 128, "Tokens that GPT-2 is given.")
_THREADS = flags.DEFINE_integer("threads", 2, "How many compute.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "How often each has a turn.")


def _mask_half(layer, axis=-1):
    """Sets the kernel, and the bias, of half of what a layer makes to zero."""
    for variable, place in ((layer.kernel, axis), (layer.bias, 0)):
        if variable is not None:
            value = keras.ops.convert_to_numpy(variable).copy()
            rows = np.moveaxis(value, place, 0)
            rows[: len(rows) // 2] = 0
            variable.assign(value)


def resnet50():
    model = keras.applications.ResNet50(weights=None, classifier_activation=None)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            _mask_half(layer)
    return model


def gpt2():
    import keras_hub

    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=_VOCABULARY.value,
        num_layers=_LAYERS.value,
        num_heads=_WIDTH.value // 64,
        hidden_dim=_WIDTH.value,
        intermediate_dim=4 * _WIDTH.value,
        max_sequence_length=1024,
    )
    for layer in engine_of(backbone).layers(backbone):
        if isinstance(layer, keras.layers.MultiHeadAttention):
            _mask_half(layer.value_dense, axis=1)
        elif layer.name == "feedforward_intermediate_dense":
            _mask_half(layer)
    # PyTorch exports what has lengths.
    names = "token_ids", "padding_mask"
    inputs = {n: keras.Input((_LENGTH.value,), dtype="int32", name=n) for n in names}
    return keras.Model(inputs, backbone(inputs))


def measure(name: str) -> list[figures.Figure]:
    """Sizes, operations and times of a masked model and the smaller one."""
    masked = {"resnet50": resnet50, "gpt2": gpt2}[name]()
    found, jobs = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, model in (("masked", masked), ("smaller", sos.shrink(masked))):
            case, path = f"{name} {kind}", os.path.join(folder, f"{kind}.onnx")
            sos.export(model, path, format="onnx")
            inputs = subjects.of_file(path).inputs(1, _LENGTH.value)
            jobs[case] = engines.onnxruntime(path, inputs, _THREADS.value)
            values = {
                "million parameters": model.count_params() / 1e6,
                "GFLOPs": sos.count_flops(model).dense / 1e9,
                "MB of ONNX": os.path.getsize(path) / 1e6,
            }
            found += [figures.Figure(case, what, n) for what, n in values.items()]
        first, second = (job()[0] for job in jobs.values())
        off = 1e6 * np.abs(first - second).max() / np.abs(first).max()
        found.append(figures.Figure(case, "1e-6 off, relative", float(off)))
        return found + figures.of_times(turns.take_turns(jobs, _ROUNDS.value))


def main(_):
    figures.publish([figure for name in _MODELS.value for figure in measure(name)])


if __name__ == "__main__":
    app.run(main)
