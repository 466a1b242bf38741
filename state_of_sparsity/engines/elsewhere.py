"""Files that a process of its own writes, under a Keras backend that has the format."""

import contextlib
import importlib
import logging
import os
import pathlib
import pickle
import re
import subprocess
import sys
import tempfile
import textwrap
import zipfile

import keras

from state_of_sparsity import atomic
from state_of_sparsity.engines import formats, reading_back

_LOG = logging.getLogger("state_of_sparsity")
# What lies in the folder that both processes know.
_MODEL, _REQUEST, _ANSWER = "model.keras", "request.pickle", "answer.pickle"


def write(model, path: pathlib.Path, name: str, backend: str, **options) -> bool:
    """Writes a plain Keras 3 model in a format that the present backend lacks.

    The other process loads the model from a `.keras` file, writes it on the CPU, and
    compares the outputs with those that are computed here.

    Args:
      model: as of `formats.write`, with `path`, `name` and `options`.
      backend: who writes it, as `formats.check` says.

    Returns:
      As `formats.write`.

    Raises:
      ValueError, RuntimeError: as `formats.write`, for a model that cannot be saved or
        that the other process cannot load, and if that process fails.
    """
    formats.check_suffix(path, name)
    expected = reading_back.outputs(model)
    _LOG.warning(
        "The %s backend has no %s: a process under KERAS_BACKEND=%s writes %s.",
        keras.backend.backend(),
        name,
        backend,
        path,
    )
    with tempfile.TemporaryDirectory() as folder, atomic.replacing(path) as new:
        _save(model, os.path.join(folder, _MODEL))
        request = {"path": new, "name": name, "expected": expected, **options}
        pathlib.Path(folder, _REQUEST).write_bytes(pickle.dumps(request))
        answer = _answer(folder, backend)
    return answer


def _save(model, path):
    try:
        model.save(path)
    except OSError:
        raise
    except Exception as error:  # Of the model's own configuration: anything.
        raise RuntimeError(
            f"Model {model.name!r} cannot be saved as .keras, for another backend to "
            f"load it. Received: {textwrap.shorten(str(error), 400)}"
        ) from error


def _answer(folder, backend) -> bool:
    """What another process answers to the request in a folder; Ctrl-C ends it, too."""
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        # The memory of GPUs may be this process's.
        "CUDA_VISIBLE_DEVICES": "-1",
        # Modules are found there as they are here.
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    with subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, folder],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            _, log = process.communicate()
        except BaseException:
            # Before the folders go that it writes to.
            process.kill()
            process.wait()
            raise
    answer = pathlib.Path(folder, _ANSWER)
    if not answer.exists():
        raise RuntimeError(
            f"The process under KERAS_BACKEND={backend} ended with exit status "
            f"{process.returncode}: {log.strip()[-400:]}"
        )
    value = pickle.loads(answer.read_bytes())
    if isinstance(value, Exception):
        raise value
    return value


def _serve(folder: pathlib.Path) -> None:
    """What the other process does: answers with what `formats.write` returns or raises.

    An error comes as one that any process knows.
    """
    request = pickle.loads((folder / _REQUEST).read_bytes())
    try:
        model = _load(folder / _MODEL)
        answer = formats.write(model, **request)
    except Exception as error:
        kind = ValueError if isinstance(error, ValueError) else RuntimeError
        answer = kind(str(error) or repr(error))
    (folder / _ANSWER).write_bytes(pickle.dumps(answer))


def _load(path):
    configuration = zipfile.ZipFile(path).read("config.json").decode()
    try:
        # Which registers the classes in them.
        for module in set(re.findall(r'"module": "([\w.]+)"', configuration)):
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
        # The user's own process has just saved it.
        return keras.saving.load_model(path, compile=False, safe_mode=False)
    except Exception as error:
        # Keras puts the configuration first.
        reason = str(error).rpartition("Exception encountered: ")[2]
        raise RuntimeError(
            f"The {keras.backend.backend()} backend, in a process of its own, cannot "
            "load this model. Custom classes and functions have to be registered "
            "(`keras.saving.register_keras_serializable`) in a module that it can "
            "import, which a script or notebook is not. Received: "
            f"{textwrap.shorten(reason, 400)}"
        ) from error


if __name__ == "__main__":
    _serve(pathlib.Path(sys.argv[1]))
