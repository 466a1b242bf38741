"""What only Keras 3 has of layers, or refuses."""

import numpy as np
import pytest

from tests.flavour import compiled, fit, keras, outputs_of, sos, sparse_layers, steps_of
from tests.shared.test_kinds import TECHNIQUES, check_trained

layers = keras.layers


@pytest.mark.feature("ReversibleEmbedding layers")
@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("name", "tied"), [("magnitude", False), ("variational", True)]
)
def test_a_reversible_embedding_is_used_both_ways(name, tied, rng, tmp_path):
    x = keras.Input((3,), dtype="int32")
    embedding = layers.ReversibleEmbedding(9, 4, tie_weights=tied, name="embedding")
    model = keras.Model(x, embedding(embedding(x), reverse=True))
    sparse = compiled(sos.sparsify(model, TECHNIQUES[name]))
    inputs = rng.integers(0, 9, (4, 3)).astype("int32")
    fit(sparse, inputs, rng.normal(size=(4, 3, 9)).astype("float32"))
    assert steps_of(sparse) == {1}
    assert len(sos.sparsity_report(sparse).layers) == (1 if tied else 2)
    check_trained(sparse, inputs, tmp_path)


@pytest.mark.any_backend
@pytest.mark.feature("layers made by hand (state_of_sparsity.layers)")
@pytest.mark.parametrize("prefix", ["Variational", "L0"])
def test_layers_by_hand_are_those_that_sparsify_makes(prefix, rng, tmp_path):
    from state_of_sparsity import layers as by_hand

    weight = {"kl_weight": 1e-3} if prefix == "Variational" else {"l0_weight": 1e-3}
    make = {
        kind: getattr(by_hand, f"{prefix}{kind}")
        for kind in ("Embedding", "GRU", "Dense")
    }
    x = keras.Input((3,), dtype="int32")
    h = make["Embedding"](9, 4, name="e", **weight)(x)
    h = make["GRU"](3, name="g", **weight)(h)
    y = make["Dense"](
        2, activation="relu", kernel_regularizer="l2", name="d", **weight
    )(h)
    model = compiled(keras.Model(x, y))
    assert len(sparse_layers(model)) == 3
    inputs = rng.integers(0, 9, (4, 3)).astype("int32")
    fit(model, inputs, np.ones((4, 2), "float32"), batch_size=2)
    assert steps_of(model) == {2}
    # Three penalties and a regularizer.
    assert len(model.losses) == 5
    check_trained(model, inputs, tmp_path)


@pytest.mark.feature("LoRA and quantized layers are refused")
@pytest.mark.parametrize("obstacle", ["LoRA", "quantized"])
def test_layers_that_hide_their_weights_are_refused(obstacle):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="d")])
    if obstacle == "LoRA":
        model.layers[0].enable_lora(2)
    else:
        model.quantize("int8")
    with pytest.raises(ValueError, match=rf"Layer 'd' .*{obstacle}"):
        sos.sparsify(model, TECHNIQUES["magnitude"])


@pytest.mark.feature("LoRA and quantized layers are refused")
def test_sparse_layers_are_not_quantized_nor_given_lora():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="d")])
    sparse = sos.sparsify(model, TECHNIQUES["magnitude"])
    with pytest.raises(ValueError, match=r"'d' cannot be given LoRA.*sos\.strip"):
        sparse.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match=r"'d' cannot be quantized.*sos\.strip"):
        sparse.layers[0].quantize("int8")
    with pytest.raises(ValueError, match=r"'d' cannot be quantized.*sos\.strip"):
        sparse.quantize("int8")
    stripped = sos.strip(sparse)
    stripped.layers[0].enable_lora(2)


@pytest.mark.feature("parts of a sparse model in another model")
@pytest.mark.any_backend
def test_a_part_of_a_sparse_model_trains_in_another_model(rng):
    x = keras.Input((4,))
    features = layers.Dense(3, activation="tanh", name="features")(x)
    model = keras.Model(x, layers.Dense(2, name="head")(features))
    sparse = sos.sparsify(model, TECHNIQUES["variational"])
    part = keras.Model(sparse.inputs, sparse.get_layer("features").output)
    new = compiled(keras.Sequential([part, layers.Dense(1, name="new")]))
    inputs = rng.normal(size=(4, 4)).astype("float32")
    fit(new, inputs, np.ones((4, 1), "float32"), batch_size=2)
    assert steps_of(new) == {2}
    assert len(new.losses) == 1
    stripped = sos.strip(new)
    np.testing.assert_allclose(
        outputs_of(stripped, inputs), outputs_of(new, inputs), atol=1e-5
    )


@pytest.mark.any_backend
@pytest.mark.feature("models of hundreds of layers")
def test_a_model_of_more_layers_than_python_has_frames(rng):
    x = y = keras.Input((2,))
    for place in range(400):
        y = keras.layers.Add(name=f"add_{place}")([y, x])
    model = keras.Model(x, keras.layers.Dense(2, name="head")(y))
    sparse = sos.sparsify(model, TECHNIQUES["magnitude"])
    inputs = rng.normal(size=(3, 2)).astype("float32")
    np.testing.assert_array_equal(outputs_of(sparse, inputs), outputs_of(model, inputs))
    stripped = sos.strip(sparse)
    np.testing.assert_array_equal(
        outputs_of(stripped, inputs), outputs_of(model, inputs)
    )
