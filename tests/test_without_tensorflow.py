"""An environment of its own, with JAX and no TensorFlow."""

import os
import pathlib
import subprocess
import sys
import venv

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = """
import importlib.util
import keras
import numpy as np
import state_of_sparsity as sos
from state_of_sparsity import layers

assert importlib.util.find_spec("tensorflow") is None
rng = np.random.default_rng(0)
x, y = rng.normal(size=(32, 6)).astype("float32"), rng.integers(0, 3, 32)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
for technique in (
    sos.MagnitudePruning(0.75, 1, 4, 1),
    sos.RandomPruning(0.75, 1, 4, 1),
    sos.VariationalDropout(1e-4),
    sos.L0Regularization(1e-4),
):
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(3)]
    )
    sparse = sos.sparsify(model, technique)
    sparse.compile("adam", loss)
    sparse.fit(x, y, batch_size=8, verbose=0, callbacks=sos.callbacks(sparse))
    report = sos.sparsity_report(sparse)
    report.plot("sparsity.png")
    sparse.save("sparse.keras")
    loaded = keras.models.load_model("sparse.keras")
    assert sos.sparsity_report(loaded) == report
    stripped = sos.strip(sparse)
    difference = keras.ops.max(keras.ops.abs(stripped(x) - sparse(x, training=False)))
    assert float(difference) < 1e-6
layers.L0Dense(3, l0_weight=1e-4)(x)
try:
    sos.callbacks(sparse, log_dir="logs")
except ImportError as error:
    assert "pip install" in str(error), error
else:
    raise AssertionError("log_dir needs TensorFlow")
print("done with", keras.backend.backend())
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a fresh environment: the core and JAX, the small backend."""
    folder = tmp_path_factory.mktemp("jax")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-warn-conflicts"]
    subprocess.run([*install, "jax>=0.10,<0.11", str(ROOT)], check=True)
    return python


@pytest.mark.slow
def test_the_core_works_where_tensorflow_is_not_installed(python, tmp_path):
    ran = subprocess.run(
        [python, "-c", SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "done with jax" in ran.stdout


@pytest.mark.slow
def test_a_binary_says_which_extra_it_lacks(python, tmp_path):
    binary = python.parent / "train_resnet50"
    ran = subprocess.run([binary], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "pip install 'state-of-sparsity[lab]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_importing_the_package_imports_no_framework_and_sets_nothing():
    code = (
        "import os, sys; before = dict(os.environ); import state_of_sparsity; "
        "assert os.environ == before; "
        "print([m for m in ('keras', 'tensorflow', 'jax', 'torch', 'tf_keras') "
        "if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
