"""Networks of `tf_keras.applications`, each in a process of its own.

Every architecture with every technique takes hours. By default some that differ most in
what they are made of are checked, with one technique of each family.

Environment:
  SOS_ARCHITECTURES: "families" for the smallest of each family, "all", or names with
    commas between them: with all techniques.
"""

import os
import subprocess
import sys

import pytest

from tests.tf_keras import applications

CHOSEN = os.environ.get("SOS_ARCHITECTURES", "")
# Depthwise kernels, squeeze and excitation, and TensorFlow's functions as layers;
# layers of Keras's own that are not public; separable convolutions.
DEFAULT = ("MobileNetV3Small", "Xception")
NAMES = {
    "": DEFAULT,
    "families": applications.REPRESENTATIVES,
    "all": applications.names(),
}.get(CHOSEN, CHOSEN.split(","))


def test_each_family_has_a_representative_that_exists():
    assert set(DEFAULT) <= set(applications.REPRESENTATIVES)
    assert set(applications.REPRESENTATIVES) <= set(applications.names())


@pytest.mark.slow
@pytest.mark.feature("networks of keras.applications")
@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_is_sparsified_trained_stripped_saved_and_exported(name):
    command = [sys.executable, "-m", "tests.tf_keras.applications", name]
    if not CHOSEN:
        command += ["--techniques", "magnitude", "l0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
