"""Runs sparse models faster than dense ones, without Keras or any framework.

session = sos.runtime.load("model.onnx")
outputs = session.run(inputs)
print(session.profile())
"""

import importlib

_HOMES = {"RuntimeFileError": "errors", "Session": "session", "load": "session"}
__all__ = sorted(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    return getattr(module, name)


def __dir__():
    return sorted([*globals(), *__all__])
