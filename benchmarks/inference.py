"""Speed of sparse networks in the engine, and of the same ones in dense ones.

python benchmarks/inference.py --networks=resnet50 --batches=1,8 --threads=1,2 \\
    --dense=onnxruntime --dense=openvino

Weights are random, and zeros where they fall; stem and classifier are dense. What takes
turns in one process shares whatever else the machine does.
"""

import gc
import importlib
import os
import sys
import tempfile
import time

import figures
import graphs
import numpy as np
import onnx
import onnxruntime
import turns
from absl import app, flags

import state_of_sparsity as sos
from state_of_sparsity.runtime import load

NETWORKS = {
    "resnet50": (graphs.resnet50, (3, 224, 224)),
    "mobilenet": (graphs.mobilenet, (3, 224, 224)),
    "encoder": (graphs.encoder, (64, 512)),
}
_NETWORKS = flags.DEFINE_list("networks", list(NETWORKS), "Which of the networks.")
_SPARSITIES = flags.DEFINE_list(
    "sparsities", ["0", "0.5", "0.8", "0.9", "0.95", "0.98"], "Parts that are zero."
)
_BATCHES = flags.DEFINE_list("batches", ["1", "8"], "Sizes of the batch.")
_THREADS = flags.DEFINE_list("threads", ["1", "2"], "How many compute.")
_ENGINES = flags.DEFINE_multi_enum(
    "dense",
    ["onnxruntime"],
    ["onnxruntime", "openvino", "tensorflow", "litert"],
    "Which dense engines, ONNX Runtime first.",
)
_ROUNDS = flags.DEFINE_integer("rounds", 15, "How often each has a turn.")
_CALLS = flags.DEFINE_integer("calls", 3, "How often each runs in a turn.")
_PLOT = flags.DEFINE_string("plot", None, "PNG or SVG of milliseconds over sparsity.")
_PROFILE = flags.DEFINE_bool("profile", False, "Whether to print profiles.")


def onnxruntime_of(name: str, path: str, shape, threads: int):
    """A function of an input that runs a file in ONNX Runtime."""
    del name, shape
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # No thread of one engine may keep a core in the turn of another.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(path, options)
    return lambda x: session.run(None, {"x": x})[0]


def openvino_of(name: str, path: str, shape, threads: int):
    """A function of an input that runs a file in OpenVINO, in float32."""
    del name
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(shape))
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda x: next(iter(request.infer([x]).values()))


def _in_tf_keras(name: str):
    """The network with weights of its own, as TensorFlow's users have it."""
    if name == "resnet50":
        from state_of_sparsity.models.images.resnet import resnet

        return resnet(50, keras=importlib.import_module("tf_keras"))
    if name == "mobilenet":
        return importlib.import_module("tf_keras").applications.MobileNet(weights=None)
    raise app.UsageError(f"--dense=tensorflow and litert have no network {name!r}.")


def tensorflow_of(name: str, path: str, shape, threads: int):
    """A function of an input that runs a SavedModel in TensorFlow."""
    del threads
    import tensorflow as tf

    model = _in_tf_keras(name)
    folder = os.path.join(os.path.dirname(path), "saved_model")
    sos.export(model, folder, overwrite=True)
    loaded = tf.saved_model.load(folder)
    x = tf.zeros([shape[0], *shape[2:], shape[1]])
    return lambda _, loaded=loaded: loaded.serve(x).numpy()


def litert_of(name: str, path: str, shape, threads: int):
    """A function of an input that runs a file in LiteRT, with XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    file = os.path.join(os.path.dirname(path), "model.tflite")
    sos.export(_in_tf_keras(name), file, format="litert")
    interpreter = Interpreter(file, num_threads=threads)
    (place,) = interpreter.get_input_details()
    (result,) = interpreter.get_output_details()
    x = np.zeros([shape[0], *shape[2:], shape[1]], np.float32)
    interpreter.resize_tensor_input(place["index"], x.shape)
    interpreter.allocate_tensors()

    def run(_):
        interpreter.set_tensor(place["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return run


# The first of `--dense` runs the same weights, which outputs are compared with.
DENSE = {
    "onnxruntime": onnxruntime_of,
    "openvino": openvino_of,
    "tensorflow": tensorflow_of,
    "litert": litert_of,
}


def measure(name: str, sparsity: float, batch: int, threads: int):
    """Figures of one network.

    Args:
      name: a key of `NETWORKS`.
      sparsity: part of the weights that is zero.
      batch: images or sentences.
      threads: that compute.
    """
    build, shape = NETWORKS[name]
    shape = (batch, *shape)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    case = f"{name} {sparsity:g} batch {batch} threads {threads}"
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        onnx.save(build(sparsity), path)
        dense = {e: DENSE[e](name, path, shape, threads) for e in _ENGINES.value}
        begin = time.perf_counter()
        sparse = load(path, threads=threads)
        loading = time.perf_counter() - begin
        (ours,) = sparse.run(x).values()
        theirs = next(iter(dense.values()))(x)
        jobs = {f"{case} {e}": lambda run=run: run(x) for e, run in dense.items()}
        jobs[f"{case} engine"] = lambda: sparse.run(x)
        times = turns.take_turns(jobs, _ROUNDS.value, _CALLS.value)
        if _PROFILE.value:
            print(sparse.profile(x))
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    gc.collect()
    return [
        *figures.of_times(times),
        figures.Figure(f"{case} engine", "s to load", loading),
        figures.Figure(f"{case} engine", "1e-6 off, relative", 1e6 * difference),
    ]


def plot(found: list[figures.Figure], path: str) -> None:
    """Draws milliseconds over sparsity, a line for each engine."""
    import matplotlib.figure

    lines = {}
    for figure in found:
        if figure.quantity == "ms":
            network, sparsity, *setting, engine = figure.case.split()
            key = f"{network}, {' '.join(setting)}", engine
            lines.setdefault(key, {})[100 * float(sparsity)] = figure.value
    panels = list(dict.fromkeys(panel for panel, _ in lines))
    drawing = matplotlib.figure.Figure((5 * len(panels), 4), layout="constrained")
    axes = drawing.subplots(1, len(panels), squeeze=False)[0]
    for (panel, engine), points in lines.items():
        axis = axes[panels.index(panel)]
        axis.plot(*zip(*sorted(points.items()), strict=True), "o-", label=engine)
        axis.set(title=panel, xlabel="sparsity, %", ylabel="ms")
    for axis in axes:
        axis.set_ylim(bottom=0)
    axes[0].legend()
    drawing.savefig(path)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"There are no arguments but flags. Received: {argv[1:]}")
    if _ENGINES.value[0] != "onnxruntime":
        raise app.UsageError("--dense=onnxruntime has to be the first one.")
    if "tensorflow" in _ENGINES.value:
        if len(_THREADS.value) > 1:
            raise app.UsageError("--dense=tensorflow takes one number of --threads.")
        # For a process, before anything is computed.
        threading = importlib.import_module("tensorflow").config.threading
        threading.set_intra_op_parallelism_threads(int(_THREADS.value[0]))
    found = []
    for name in _NETWORKS.value:
        for threads in map(int, _THREADS.value):
            for batch in map(int, _BATCHES.value):
                for sparsity in map(float, _SPARSITIES.value):
                    found += measure(name, sparsity, batch, threads)
                    print(f"{found[-3].case}: {found[-3].value:.2f}", file=sys.stderr)
    figures.publish(found)
    if _PLOT.value:
        plot(found, _PLOT.value)


if __name__ == "__main__":
    app.run(main)
