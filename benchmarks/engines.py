"""Engines that inference is measured in, beside ours.

Each function loads a file and returns a call that runs it on the same inputs, which has
run once. Engines are imported where they are loaded: a process that takes one has the
memory of no other.

Arguments are the file, the inputs by name, and how many threads compute.
"""

import importlib

import numpy as np


def sparse(path: str, inputs: dict[str, np.ndarray], threads: int):
    """Our engine."""
    session = importlib.import_module("state_of_sparsity.runtime").load(path, threads)
    return _run_once(lambda: list(session.run(inputs).values()))


def onnxruntime(path: str, inputs: dict[str, np.ndarray], threads: int):
    """ONNX Runtime."""
    module = importlib.import_module("onnxruntime")
    options = module.SessionOptions()
    options.intra_op_num_threads = threads
    # No thread of one engine may keep a core in the turn of another.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = module.InferenceSession(path, options, ["CPUExecutionProvider"])
    return _run_once(lambda: session.run(None, inputs))


def openvino(path: str, inputs: dict[str, np.ndarray], threads: int):
    """OpenVINO, in float32, for inputs of just these shapes."""
    core = importlib.import_module("openvino").Core()
    model = core.read_model(path)
    model.reshape({name: list(array.shape) for name, array in inputs.items()})
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return _run_once(lambda: list(request.infer(inputs).values()))


def tensorflow(path: str, inputs: dict[str, np.ndarray], threads: int):
    """TensorFlow on a SavedModel of one input of images, channels last."""
    limit_tensorflow(threads)
    tf = importlib.import_module("tensorflow")
    x = tf.constant(_channels_last(inputs))
    model = tf.saved_model.load(path)
    return _run_once(lambda: [model.serve(x).numpy()])


def limit_tensorflow(threads: int) -> None:
    """Says how many threads compute, once for a process, before anything is computed.

    The same number again is no error.
    """
    threading = importlib.import_module("tensorflow").config.threading
    threading.set_intra_op_parallelism_threads(threads)


def litert(path: str, inputs: dict[str, np.ndarray], threads: int):
    """LiteRT with XNNPACK, on a model of one input of images, channels last."""
    module = importlib.import_module("ai_edge_litert.interpreter")
    interpreter = module.Interpreter(path, num_threads=threads)
    (place,) = interpreter.get_input_details()
    (result,) = interpreter.get_output_details()
    x = _channels_last(inputs)
    interpreter.resize_tensor_input(place["index"], x.shape)
    interpreter.allocate_tensors()

    def run():
        interpreter.set_tensor(place["index"], x)
        interpreter.invoke()
        return [interpreter.get_tensor(result["index"])]

    return _run_once(run)


def _channels_last(inputs):
    (x,) = inputs.values()
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _run_once(run):
    run()
    return run


DENSE = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "tensorflow": tensorflow,
    "litert": litert,
}
ALL = {"engine": sparse, **DENSE}
