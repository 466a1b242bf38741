"""Files and inference of sparse models, without Keras and without TensorFlow.

session = sos.runtime.load("model.sparse")
outputs = session.run({"inputs": x})
"""

import importlib

# Public names and the modules that they come from when they are first used.
_HOMES = {
    "RuntimeFileError": "files",
    "Session": "session",
    "load": "session",
    "read": "files",
    "to_onnx": "files",
    "write": "files",
}
__all__ = sorted(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    return getattr(module, name)


def __dir__():
    return sorted([*globals(), *__all__])
