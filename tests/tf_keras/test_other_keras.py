"""Files of one Keras are refused by the other, by name and with the way out."""

import subprocess
import sys

import keras as keras3
import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity import layers as layers3
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.layers import tf_keras as layers

# One whose layers are wrapped, or get another class, and one whose do not.
TECHNIQUES = [sos.MagnitudePruning(0.5, 1, 2, 1), sos.L0Regularization(1e-3)]


def sequential(of):
    return of.Sequential([of.Input((4,)), of.layers.Dense(3)])


def subclassed(of):
    """Made of nothing that the other Keras lacks, but for what makes it sparse."""

    class Net(of.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = of.layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

    model = Net()
    model(np.zeros((1, 4), "float32"))
    return model


@pytest.mark.parametrize("make", [sequential, subclassed])
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_keras_3_refuses_files_of_tf_keras(make, technique, tmp_path):
    sos.sparsify(make(keras), technique).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"load it with tf_keras\.models\.load_model"):
        keras3.models.load_model(tmp_path / "model.keras")


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_tf_keras_refuses_subclassed_models_of_keras_3(technique, tmp_path):
    sos.sparsify(subclassed(keras3), technique).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"load it with keras\.models\.load_model"):
        keras.models.load_model(tmp_path / "model.keras")


def test_layers_by_hand_are_refused_by_the_other_keras():
    ours = keras.utils.serialize_keras_object(layers.L0Dense(3, l0_weight=1.0))
    with pytest.raises(ValueError, match=r"load it with tf_keras\.models"):
        keras3.saving.deserialize_keras_object(ours)
    theirs = keras3.saving.serialize_keras_object(layers3.L0Dense(3, l0_weight=1.0))
    with pytest.raises(ValueError, match=r"load it with keras\.models"):
        keras.utils.deserialize_keras_object(theirs)


UNCHANGED = """
import sys
import tensorflow_model_optimization, tf_keras
from tf_keras.src.mixed_precision import autocast_variable
from tf_keras.src.models import cloning
from tf_keras.src.saving import saving_lib
from tf_keras.src.saving.legacy import hdf5_format

def attributes():
    owners = [m for n, m in sys.modules.items() if n.partition(".")[0] == "tf_keras"]
    owners += [c for c in vars(tf_keras.layers).values() if isinstance(c, type)]
    owners += [tf_keras.Model, tf_keras.Sequential]
    return {
        (owner.__name__, name): value
        for owner in owners
        for name, value in list(vars(owner).items())
        if callable(value) or isinstance(value, classmethod | property)
    }

before = attributes()
import state_of_sparsity.layers.tf_keras
after = attributes()
print([key for key, value in before.items() if after.get(key) is not value])
"""


@pytest.mark.slow
def test_importing_the_engine_changes_nothing_of_tf_keras():
    command = [sys.executable, "-c", UNCHANGED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("function", [sos.shrink, lambda m: sos.quantize(m, "int8")])
def test_what_keras_3_alone_has_is_refused(function):
    model = keras.Sequential([keras.layers.Dense(2, input_shape=(3,))])
    with pytest.raises(TypeError, match="is one of tf_keras"):
        function(model)
