"""What programs do that others have written, and what becomes of it in the copies."""

import functools

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from tests.flavour import register

PRUNING = sos.MagnitudePruning(0.75, begin_step=1, end_step=6, frequency=1)


class Twice:
    """Holds a layer, and is none."""

    def __init__(self, layer):
        self.layers = {"first": layer}

    def apply(self, inputs):
        return self.layers["first"](inputs)


class Net(keras.Model):
    """Reaches its first layer by what `stem_of` makes of it."""

    def __init__(self, stem_of):
        super().__init__()
        self.a = keras.layers.Dense(8, name="a")
        self.b = keras.layers.Dense(4, name="b")
        self.stem = stem_of(self)

    @tf.function
    def graph_of_a(self, inputs):
        return self.a(inputs)

    def call(self, inputs):
        return self.b(self.stem(inputs))


def recursive(net):
    def stem(inputs, times):
        return net.a(inputs) if times == 0 else stem(inputs, times - 1)

    return lambda inputs: stem(inputs, 1)


def of_a_kernel(net):
    net.a.build((None, 6))
    kernel, layer = net.a.kernel, net.a
    return lambda x: tf.matmul(x, kernel) + 0 * layer(x)


def of_a_model(net):
    inputs = keras.Input((6,))
    features = keras.Model(inputs, net.a(inputs))
    return lambda x: features(x)


def of_a_backend_function(net):
    inputs = keras.Input((6,))
    return keras.backend.function(inputs, net.a(inputs))


GLOBAL = {}
exec("def of_a_global(inputs):\n    return layer(inputs)", GLOBAL)


def of_a_global(net):
    GLOBAL["layer"] = net.a
    return GLOBAL["of_a_global"]


STEMS = {
    "self": lambda net: lambda x: net.a(x),
    "a list": lambda net: (lambda held: lambda x: held[0](x))([net.a]),
    "a default": lambda net: lambda x, layer=net.a: layer(x),
    "a graph": lambda net: tf.function(lambda x: net.a(x)),
    "a partial": lambda net: functools.partial(lambda layer, x: layer(x), net.a),
    "a method": lambda net: net.a.__call__,
    "a method of its own": lambda net: net.graph_of_a,
    "itself": recursive,
    "a kernel": of_a_kernel,
    "a model": of_a_model,
    "a function of Keras": of_a_backend_function,
    "a global": of_a_global,
}


@pytest.mark.feature("others: functions and objects that hold a layer")
@pytest.mark.parametrize("name", STEMS)
def test_a_function_that_holds_a_layer_is_of_the_copy(name, rng):
    x = rng.normal(size=(8, 6)).astype("float32")
    net = Net(STEMS[name])
    before = net(x).numpy()
    sparse = sos.sparsify(net, PRUNING)
    stripped = sos.strip(sparse)
    for weight in (*net.weights, *sparse.weights):
        weight.assign(tf.zeros_like(weight))
    np.testing.assert_array_equal(net(x), np.zeros_like(before))
    np.testing.assert_array_equal(sparse(x), np.zeros_like(before))
    np.testing.assert_array_equal(stripped(x), before)


@pytest.mark.feature("others: functions and objects that hold a layer")
def test_a_call_on_a_variable_is_of_the_copy(rng):
    x = rng.normal(size=(8, 6)).astype("float32")
    encoder = keras.layers.Dense(4, name="encoder")
    inputs = keras.Input((6,))
    hidden = encoder(inputs)
    direct = tf.matmul(hidden, encoder.kernel, transpose_b=True)
    by_layer = keras.layers.Lambda(lambda h: h @ tf.transpose(encoder.kernel))(hidden)
    model = keras.Model(inputs, [direct, by_layer])
    sparse = sos.sparsify(model, PRUNING)
    stripped = sos.strip(sparse)
    before = model(x)
    for other in (sparse, stripped):
        for one, two in zip(before, other(x), strict=True):
            np.testing.assert_array_equal(one, two)
    for weight in (*model.weights, *sparse.weights):
        weight.assign(tf.zeros_like(weight))
    for one, two in zip(before, stripped(x), strict=True):
        np.testing.assert_array_equal(one, two)
    assert all(np.abs(y).max() == 0 for y in (*model(x), *sparse(x)))


class Module(tf.Module):
    """Has a variable of its own, which Keras trains."""

    def __init__(self):
        super().__init__()
        self.scale = tf.Variable(1.0, name="scale")

    def __call__(self, inputs):
        return self.scale * inputs


class Towards(keras.regularizers.Regularizer):
    def __init__(self, layer):
        self.layer = layer

    def __call__(self, weight):
        return tf.reduce_sum(tf.square(weight)) * tf.reduce_sum(self.layer.bias)


class Doubling(keras.layers.Dense):
    def doubled(self, inputs):
        return 2 * self(inputs)


def a_method_that_wrappers_lack(net):
    net.c = Doubling(8, name="c")
    return net.c.doubled


def regularized(net):
    net.b.kernel_regularizer = Towards(net.a)
    return net.a


@pytest.mark.feature("others: functions and objects that hold a layer")
@pytest.mark.parametrize(
    ("stem_of", "place", "part"),
    [
        (lambda net: Twice(net.a).apply, "Net 'net'.*attribute 'stem'", "'a'"),
        (lambda net: tf.function(Twice(net.a).apply), "attribute 'stem'", "'apply'"),
        (lambda net: tf.recompute_grad(lambda x: net.a(x)), "'stem'", "'net'"),
        (lambda net: Module(), "attribute 'stem'", "'scale:0'"),
        (a_method_that_wrappers_lack, "attribute 'stem'", "'c'"),
        (regularized, "Dense 'b'.*attribute 'kernel_regularizer'", "'a'"),
    ],
)
def test_an_object_that_holds_a_layer_is_refused(stem_of, place, part, rng):
    net = Net(stem_of)
    net.build((None, 6))
    with pytest.raises(ValueError, match=f"{place} uses {part}.*keras.layers.Layer"):
        sos.sparsify(net, PRUNING)


@pytest.mark.feature("others: functions and objects that hold a layer")
def test_a_class_that_holds_a_layer_is_refused():
    shared = keras.layers.Dense(4, name="shared")

    class Tied(keras.layers.Layer):
        def call(self, inputs):
            return tf.matmul(inputs, shared.kernel, transpose_b=True)

    inputs = keras.Input((6,))
    model = keras.Model(inputs, Tied(name="tied")(shared(inputs)))
    with pytest.raises(ValueError, match=r"Tied 'tied'.*call.*'shared'.*attribute"):
        sos.sparsify(model, PRUNING)


def test_a_graph_that_one_of_its_layers_calls_is_refused():
    held = {}
    layer = keras.layers.Lambda(lambda x: held["model"](x) if "model" in held else x)
    model = keras.Sequential([keras.layers.Dense(4, input_shape=(4,)), layer])
    held["model"] = model
    with pytest.raises(ValueError, match="a function in one of its layers uses"):
        sos.sparsify(model, PRUNING)


def test_what_is_no_part_of_the_model_is_shared():
    teacher = keras.Sequential([keras.layers.Dense(8, input_shape=(6,))])

    class Holder:
        teacher_model = teacher

    def stem_of(net):
        net.helper = Holder()
        return lambda x: net.a(x) + teacher(x)

    net = Net(stem_of)
    net.build((None, 6))
    sparse = sos.sparsify(net, PRUNING)
    assert sparse.helper is net.helper
    assert len(sparse.stem.__closure__) == 2
    assert any(cell.cell_contents is teacher for cell in sparse.stem.__closure__)


@register
class Stem(keras.layers.Layer):
    """Makes a function of a layer in its `build`, before or after it holds that."""

    def __init__(self, late=False, **kwargs):
        super().__init__(**kwargs)
        self.late = late

    def build(self, input_shape):
        layer = keras.layers.Dense(8, name="inner")
        layer.build(input_shape)
        if self.late:
            self.stem = lambda x: layer(x)
        self.layer = layer
        if not self.late:
            self.stem = lambda x: layer(x)
        super().build(input_shape)

    def call(self, inputs):
        return self.stem(inputs)

    def get_config(self):
        return {**super().get_config(), "late": self.late}


@pytest.mark.feature("others: functions and objects that hold a layer")
@pytest.mark.parametrize("late", [False, True])
def test_a_function_of_a_layer_that_is_loaded_is_of_the_sparse_one(late, rng, tmp_path):
    x = rng.normal(size=(8, 6)).astype("float32")
    model = keras.Sequential([Stem(late, input_shape=(6,))])
    sparse = sos.sparsify(model, sos.L0Regularization(0.0))
    for weight in sparse.trainable_weights:
        weight.assign(tf.cast(rng.normal(size=weight.shape), weight.dtype))
    sparse.save(tmp_path / "sparse.keras")
    if late:
        with pytest.raises(ValueError, match="attribute 'stem' uses 'inner'"):
            keras.models.load_model(tmp_path / "sparse.keras")
        return
    loaded = keras.models.load_model(tmp_path / "sparse.keras")
    np.testing.assert_array_equal(loaded(x), sparse(x))


TECHNIQUES = {
    "dense": None,
    "magnitude_pruning": PRUNING,
    "variational_dropout": sos.VariationalDropout(0.0),
    "l0_regularization": sos.L0Regularization(0.0),
}
SPARSE = list(TECHNIQUES)[1:]


@pytest.fixture
def made():
    """Makes models that differ in their technique alone."""
    dense = keras.Sequential(
        [
            keras.layers.Dense(8, name="hidden", input_shape=(6,)),
            keras.Sequential([keras.layers.Dense(4, name="logits")]),
        ]
    )
    return lambda n: sos.sparsify(dense, TECHNIQUES[n]) if TECHNIQUES[n] else dense


@pytest.mark.feature("others: weights of another technique are refused")
@pytest.mark.parametrize("file", ["w.h5", "w.weights.h5", "checkpoint"])
@pytest.mark.parametrize("to", SPARSE)
@pytest.mark.parametrize("of", SPARSE)
def test_weights_of_another_technique_are_refused(of, to, file, made, tmp_path):
    model, other = made(to), made(of)
    other.save_weights(tmp_path / file)
    if of == to:
        model.load_weights(tmp_path / file)
        for one, two in zip(model.weights, other.weights, strict=True):
            np.testing.assert_array_equal(one, two)
        return
    with pytest.raises(ValueError, match=f"one of {to}, and the weights") as error:
        model.load_weights(tmp_path / file)
    assert "sos.sparsify" in str(error.value)
    # Where other formats look, they find nothing of another technique.
    if file == "w.h5":
        name = "a pruned layer" if of == "magnitude_pruning" else of
        assert f"those of {name}." in str(error.value)


@pytest.mark.feature("others: weights of another technique are refused")
def test_a_list_of_weights_of_another_technique_is_refused(made):
    for of in SPARSE[1:]:
        model = made("magnitude_pruning")
        with pytest.raises(ValueError, match=f"magnitude_pruning, .* those of {of}"):
            model.set_weights(made(of).get_weights())


@pytest.mark.feature("others: weights of another technique are refused")
@pytest.mark.parametrize("file", ["w.weights.h5", "checkpoint"])
def test_weights_of_a_dense_model_are_refused_with_the_way_out(file, made, tmp_path):
    made("dense").save_weights(tmp_path / file)
    with pytest.raises(ValueError, match=r"dense model into the dense one, .*sparsify"):
        made("magnitude_pruning").load_weights(tmp_path / file)


class Tied(keras.layers.Layer):
    def __init__(self, to, **kwargs):
        super().__init__(**kwargs)
        self.to = to

    def call(self, inputs):
        return tf.matmul(inputs, self.to.kernel, transpose_b=True)


class Language(keras.Model):
    def __init__(self):
        super().__init__()
        self.embedding = keras.layers.Embedding(6, 4, name="embedding")

    def call(self, ids):
        hidden = tf.reduce_sum(self.embedding(ids), 1)
        return tf.matmul(hidden, self.embedding.embeddings, transpose_b=True)


def tied_layer():
    encoder, inputs = keras.layers.Dense(4, name="encoder"), keras.Input((6,))
    return keras.Model(inputs, Tied(encoder)(encoder(inputs)))


def tied_lambda():
    encoder, inputs = keras.layers.Dense(4, name="encoder"), keras.Input((6,))
    decoder = keras.layers.Lambda(lambda h: h @ tf.transpose(encoder.kernel))
    return keras.Model(inputs, decoder(encoder(inputs)))


@pytest.mark.feature("others: a weight that is read past its layer")
@pytest.mark.parametrize("technique", [TECHNIQUES[name] for name in SPARSE])
@pytest.mark.parametrize("make", [tied_layer, tied_lambda, Language])
def test_a_weight_that_another_layer_reads_is_the_one_computed_with(
    make, technique, rng
):
    x = rng.integers(6, size=(8, 6)).astype("float32")
    model = make()
    model(x)
    sparse = sos.sparsify(model, technique)
    sparse.compile(keras.optimizers.SGD(0.1), "mse")
    sparse.fit(x, x, epochs=2, verbose=0, callbacks=sos.callbacks(sparse))
    for weight in sparse.trainable_weights:
        weight.assign(tf.cast(rng.normal(size=weight.shape), weight.dtype))
    layer = next(x for x in sparse._flatten_layers() if hasattr(x, "technique"))
    if hasattr(layer, "log_alpha"):
        layer.log_alpha.assign(4 * tf.sign(layer.log_alpha))
    if hasattr(layer, "log_sigma2"):
        layer.log_sigma2.assign(4 * layer.log_sigma2)
    stripped = sos.strip(sparse)
    zeros = sos.sparsity_report(stripped).sparsity
    assert technique is PRUNING or 0.2 < zeros < 0.8
    np.testing.assert_allclose(sparse(x), stripped(x), rtol=1e-5, atol=1e-6)


@pytest.mark.feature("others: a weight that is read past its layer")
@pytest.mark.parametrize("technique", [TECHNIQUES[name] for name in SPARSE[1:]])
def test_a_tied_layer_has_the_noise_of_the_step_and_the_gradient(technique, rng):
    x = rng.normal(size=(8, 6)).astype("float32")
    sparse = sos.sparsify(tied_layer(), technique)
    encoder, tied = sparse.layers[1:]
    (extra,) = encoder.held["kernel"].state.values()
    hidden = tf.ones((8, 4))
    extra.assign(tf.zeros_like(extra))
    with tf.GradientTape() as tape:
        outputs = tied(hidden, training=True)
    assert np.abs(outputs - tied(hidden, training=False)).max() > 0.01
    assert np.abs(tape.gradient(outputs, extra)).max() > 0
    assert encoder.training_step == 1
    assert isinstance(encoder.kernel, tf.Variable)
    sparse(x)


class Holding(Tied):
    def build(self, input_shape):
        super().build(input_shape)
        self.kernel = self.to.kernel

    def call(self, inputs):
        return tf.matmul(inputs, self.kernel, transpose_b=True)


def held_by_a_layer(encoder, inputs):
    return Holding(encoder, name="reader")(encoder(inputs))


def held_by_a_function(encoder, inputs):
    hidden = encoder(inputs)
    kernel = encoder.kernel
    return keras.layers.Lambda(lambda h: h @ tf.transpose(kernel), name="reader")(
        hidden
    )


def held_by_a_call(encoder, inputs):
    hidden = encoder(inputs)
    return tf.matmul(hidden, encoder.kernel, transpose_b=True)


def normalized(encoder, inputs):
    return keras.layers.SpectralNormalization(encoder, name="reader")(inputs)


@pytest.mark.feature("others: a weight that is read past its layer")
@pytest.mark.parametrize(
    "outputs_of",
    [held_by_a_layer, held_by_a_function, held_by_a_call, normalized],
)
def test_a_layer_that_holds_the_variable_of_another_is_warned_of(outputs_of):
    encoder, inputs = keras.layers.Dense(4, name="encoder"), keras.Input((6,))
    model = keras.Model(inputs, outputs_of(encoder, inputs))
    with pytest.warns(
        UserWarning, match=r"(reader|matmul)' holds the weight '.*encoder/kernel'"
    ):
        sos.sparsify(model, TECHNIQUES["l0_regularization"])


@pytest.mark.parametrize("make", [tied_layer, tied_lambda, Language])
def test_a_layer_that_reads_a_weight_of_another_is_not_warned_of(make, recwarn):
    model = make()
    model(np.zeros((2, 6), "float32"))
    sos.sparsify(model, TECHNIQUES["l0_regularization"])
    assert not [w for w in recwarn if "holds the weight" in str(w.message)]


@pytest.mark.feature("others: training that never says training=True")
@pytest.mark.parametrize(
    "technique", [PRUNING, sos.L0Regularization(1e-4)], ids=["pruning", "l0"]
)
def test_training_as_in_inference_is_noticed(technique):
    class Around(keras.Model):
        def __init__(self, student):
            super().__init__()
            self.student = student

        def call(self, inputs):
            return self.student(inputs, training=False)

    student = keras.Sequential([keras.layers.Dense(4, input_shape=(6,))])
    student = sos.sparsify(student, technique)
    around = Around(student)
    inputs = np.ones((8, 6), "float32")
    around(inputs)
    around.compile("sgd", "mse", run_eagerly=True)
    with pytest.warns(UserWarning, match="has counted a step in this epoch"):
        around.fit(
            inputs, inputs[:, :4], epochs=2, verbose=0, callbacks=sos.callbacks(around)
        )
    if technique is PRUNING:
        with pytest.warns(UserWarning, match="'dense.*' has counted 0 training steps"):
            sos.sparsity_report(student)


@pytest.mark.feature("others: averages of weights")
def test_averages_of_masks_are_found():
    model = keras.Sequential([keras.layers.Dense(4, input_shape=(6,), name="d")])
    target = sos.sparsify(model, PRUNING)
    masked = [0.5 * weight for weight in target.get_weights()]
    target.set_weights(masked)
    for read in (sos.sparsity_report, sos.strip, sos.weight_masks):
        with pytest.raises(ValueError, match="mask of d/kernel has other values than"):
            read(target)


@pytest.mark.feature("others: constants of a model in its files")
def test_constants_of_a_model_are_no_inputs_of_its_file(tmp_path):
    normalization = keras.layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(1, 2, (8, 5)))
    shift = tf.range(150.0)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            normalization,
            keras.layers.Dense(150),
            keras.layers.Lambda(lambda outputs: outputs + shift),
        ]
    )
    path = tmp_path / "model.sparse"
    sos.export(model, path, format="sparse")
    inputs = np.ones((3, 5), "float32")
    (outputs,) = sos.runtime.load(path).run(inputs).values()
    assert np.allclose(outputs, model(inputs), atol=1e-4)


@pytest.fixture
def quantized(rng):
    """A model that was pruned to one half, and is quantized."""
    kernel = rng.normal(size=(6, 8)).astype("float32")
    kernel[::2] = 0
    layers = [
        keras.layers.Conv2D(2, 1, name="first", input_shape=(2, 3, 1)),
        keras.layers.Flatten(),
        keras.layers.Dense(8, activation="relu", name="second"),
    ]
    model = keras.Sequential(layers)
    layers[-1].kernel.assign(np.vstack([kernel, 0 * kernel]))
    return tfmot.quantization.keras.quantize_model(model)


@pytest.mark.feature("others: quantized models")
def test_a_quantized_model_is_reported_stripped_and_exported(quantized, rng, tmp_path):
    x = rng.normal(size=(16, 2, 3, 1)).astype("float32")
    # Learns ranges of activations alone.
    quantized.compile(keras.optimizers.SGD(0.0), "mse")
    quantized.fit(x, np.zeros((16, 8)), epochs=2, verbose=0)
    weights = {w.name.rpartition("/")[2]: w for w in quantized.layers[-1].weights}
    kernel = weights["kernel:0"].numpy()
    report = sos.sparsity_report(quantized)
    assert [x.name for x in report.layers] == ["first/kernel", "second/kernel"]
    assert report.layers[1].zeros == np.sum(kernel == 0) > 0
    stripped = sos.strip(quantized)
    before = quantized(x).numpy()
    np.testing.assert_array_equal(stripped(x), before)
    for weight in quantized.weights:
        weight.assign(tf.zeros_like(weight))
    np.testing.assert_array_equal(stripped(x), before)
    sos.export(stripped, tmp_path / "exported")
    loaded = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(loaded.serve(x), before, atol=1e-6)


@pytest.mark.feature("others: quantized models")
def test_a_quantized_layer_is_not_made_sparse(quantized):
    for technique in (PRUNING, TECHNIQUES["l0_regularization"]):
        with pytest.raises(ValueError, match=r"'first' is quantized .*before quantize"):
            sos.sparsify(quantized, technique)
    with pytest.raises(ValueError, match="'second' is quantized"):
        sos.sparsify(quantized, PRUNING, overrides={"first": None})
