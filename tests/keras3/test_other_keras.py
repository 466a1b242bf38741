"""Files of the tf_keras engine."""

import keras
import pytest

import state_of_sparsity as sos


def test_a_file_of_the_other_keras_is_refused_by_name(tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tf_keras needs the TensorFlow backend")
    import tf_keras

    model = tf_keras.Sequential([tf_keras.layers.Dense(3, input_shape=(4,))])
    sparse = sos.sparsify(model, sos.MagnitudePruning(0.5, 1, 2, 1))
    sparse.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"load it with tf_keras\.models"):
        keras.models.load_model(tmp_path / "model.keras")
