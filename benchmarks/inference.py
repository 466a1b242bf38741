"""Speed of sparse networks in the engine, and of the same ones in dense ones.

python benchmarks/inference.py --networks=resnet50 --batches=1,8 --threads=1,2 \\
    --dense=onnxruntime --dense=openvino

Weights are random, and zeros where they fall; stem and classifier are dense. What takes
turns in one process shares whatever else the machine does.
"""

import gc
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
    "dense", ["onnxruntime"], ["onnxruntime", "openvino"], "Which dense engines."
)
_ROUNDS = flags.DEFINE_integer("rounds", 15, "How often each has a turn.")
_CALLS = flags.DEFINE_integer("calls", 3, "How often each runs in a turn.")
_PROFILE = flags.DEFINE_bool("profile", False, "Whether to print profiles.")


def onnxruntime_of(path: str, shape, threads: int):
    """A function of an input that runs a file in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # No thread of one engine may keep a core in the turn of another.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(path, options)
    return lambda x: session.run(None, {"x": x})[0]


def openvino_of(path: str, shape, threads: int):
    """A function of an input that runs a file in OpenVINO, in float32."""
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


DENSE = {"onnxruntime": onnxruntime_of, "openvino": openvino_of}


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
        dense = {e: DENSE[e](path, shape, threads) for e in _ENGINES.value}
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


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"There are no arguments but flags. Received: {argv[1:]}")
    found = []
    for name in _NETWORKS.value:
        for threads in map(int, _THREADS.value):
            for batch in map(int, _BATCHES.value):
                for sparsity in map(float, _SPARSITIES.value):
                    found += measure(name, sparsity, batch, threads)
                    print(f"{found[-3].case}: {found[-3].value:.2f}", file=sys.stderr)
    figures.publish(found)


if __name__ == "__main__":
    app.run(main)
