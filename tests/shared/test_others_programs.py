"""What others' programs did, and what no program may do without a word."""

import numpy as np
import pytest

from tests.flavour import compiled, fit, keras, sos

PAIRS = sos.MagnitudePruning(0.5, 1, 2, 1, sparsity_m_by_n=(2, 4))


def colors(channels):
    """A convolution on some channels, and one on 4."""
    return keras.Sequential(
        [
            keras.Input((3, 3, channels)),
            keras.layers.Conv2D(4, 2, name="first"),
            keras.layers.Conv2D(4, 2, name="second"),
        ]
    )


@pytest.mark.feature("others: m of n where n does not divide an axis")
@pytest.mark.any_backend
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_what_m_of_n_cannot_mask_stays_dense_as_planned(channels):
    model = colors(channels)
    message = (
        f"first/kernel of shape .*: 4 does not divide axis 2, its {channels} input"
    )
    with pytest.warns(UserWarning, match=message) as told:
        planned = sos.planned_sparsities(model, PAIRS)
    assert [warning.filename for warning in told] == [__file__]
    with pytest.warns(UserWarning, match=message):
        sparse = sos.sparsify(model, PAIRS)
    compiled(sparse)
    assert planned == {"first": 0, "second": 0.5}
    fit(sparse, np.ones((12, 3, 3, channels)), np.ones((12, 1, 1, 4)))
    report = sos.sparsity_report(sparse)
    assert [x.sparsity for x in report.layers] == list(planned.values())
    assert [x.technique for x in report.layers] == ["dense", "magnitude_pruning"]
    flops = sos.count_training_flops(sparse, steps=2).layers
    assert flops["first/kernel"].sparse == flops["first/kernel"].dense
    assert flops["second/kernel"].sparse < flops["second/kernel"].dense


@pytest.mark.feature("others: m of n where n does not divide an axis")
@pytest.mark.any_backend
def test_what_m_of_n_cannot_mask_is_refused_by_name():
    message = r"first/kernel of shape \(2, 2, 3, 4\): 4 does not divide .*`overrides`"
    with pytest.raises(ValueError, match=message):
        sos.sparsify(colors(3), PAIRS, {"first": PAIRS})
    with pytest.raises(ValueError, match=r"Nothing to sparsify.*first/kernel of shape"):
        sos.sparsify(colors(3), PAIRS, {"second": None})


class Mixing(keras.layers.Layer):
    """Somebody else's layer, also as a recurrent cell, which says nothing of itself."""

    state_size = output_size = 4

    def build(self, shape):
        self.matrix = self.add_weight(shape=(4, 4), name="matrix")
        self.built = True

    def call(self, inputs, states=None):
        outputs = inputs @ self.matrix
        return outputs if states is None else (outputs, states)


class Derived(Mixing):
    """Says what the rule for its class has the last word on."""

    def weight_uses(self, input_shape, output_shape):
        raise AssertionError("asked in spite of a rule")

    activation_products = weight_uses


def of_mixing(layer, input_shapes, output_shape):
    assert isinstance(layer, Mixing)
    assert input_shapes[0] == (1, 5, 4)
    assert output_shape in ((1, 5, 4), (1, 4))
    return {"matrix": 5, "activations": 7 if type(layer) is Derived else 0}


@pytest.mark.feature("others: operations of other libraries' layers")
@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("make", "products"),
    [(Mixing, 0), (Derived, 7), (lambda: keras.layers.RNN(Mixing()), 0)],
    ids=["class", "derived", "cell"],
)
def test_a_rule_counts_for_somebody_elses_class(make, products):
    model = keras.Sequential([keras.Input((5, 4)), make()])
    rules = {Mixing: of_mixing}
    assert sos.count_flops(model, rules=rules).dense == 2 * (5 * 16 + products)
    if make is Mixing:
        trained = sos.count_training_flops(model, steps=3, rules=rules)
        assert trained.dense == 9 * 2 * 5 * 16
        with pytest.raises(ValueError, match=r"No rule .*another, in `rules`"):
            sos.count_flops(model)


@pytest.mark.any_backend
@pytest.mark.parametrize("rules", [{"Mixing": of_mixing}, {Mixing: {"matrix": 5}}])
def test_rules_that_are_none_are_refused(rules):
    model = keras.Sequential([keras.Input((5, 4)), Mixing()])
    with pytest.raises(TypeError, match="rules must be functions by class"):
        sos.count_flops(model, rules=rules)


def of_keras_hub(cls):
    """A class as KerasHub has it, of which only the name is asked."""
    return type(cls.__name__, (cls,), {"__module__": "keras_hub.src.layers"})


class PositionEmbedding(keras.layers.Layer):
    def build(self, shape):
        self.position_embeddings = self.add_weight(shape=(9, 4), name="embeddings")
        self.built = True

    def call(self, inputs):
        return inputs + self.position_embeddings[: inputs.shape[1]]


class MaskedLMHead(keras.layers.Layer):
    def build(self, shape):
        self._kernel = self.add_weight(shape=(4, 11), name="output_kernel")
        self.built = True

    def call(self, inputs):
        return inputs[:, :2] @ self._kernel


class LlamaAttention(keras.layers.Layer):
    """Self-attention without a configuration that could be asked."""

    num_query_heads = 2

    def build(self, shape):
        self.inward = keras.layers.Dense(4, use_bias=False, name="inward")
        self.inward.build(shape)
        self.built = True

    def call(self, inputs):
        return self.inward(inputs)


@pytest.mark.feature("others: operations of other libraries' layers")
@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("cls", "multiply_adds"),
    [
        (PositionEmbedding, 0),
        (MaskedLMHead, 2 * 4 * 11),
        # Of each pair of 5 positions, 2 heads of 2, in scores and in outputs.
        (LlamaAttention, 5 * 4 * 4 + 5 * 5 * 2 * 2 * 2),
    ],
)
def test_layers_of_keras_hub_have_rules(cls, multiply_adds):
    model = keras.Sequential([keras.Input((5, 4)), of_keras_hub(cls)()])
    assert sos.count_flops(model).dense == 2 * multiply_adds
