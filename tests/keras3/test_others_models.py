"""Kinds of programs that others write around a sparse model of Keras 3."""

import functools
import warnings
import weakref

import numpy as np
import pytest

from tests.flavour import (
    BACKEND,
    compiled,
    fit,
    from_logits,
    keras,
    outputs_of,
    register,
    sos,
    to_numpy,
)

ops = keras.ops
MAGNITUDE = sos.MagnitudePruning(0.75, 1, 4, 1)
VARIATIONAL = sos.VariationalDropout(1e-4, ramp_length=2)


@pytest.fixture
def data(rng):
    return rng.normal(size=(16, 8)).astype("float32"), np.arange(16) % 4


def classifier(*layers):
    logits = keras.layers.Dense(4, name="logits")
    return keras.Sequential([keras.Input((8,)), *layers, logits], name="classifier")


class Tied(keras.layers.Layer):
    """Maps back with the transposed kernel of another layer."""

    def __init__(self, source, **kwargs):
        super().__init__(**kwargs)
        self.source = source

    def call(self, inputs):
        return inputs @ ops.transpose(self.source.kernel)


def autoencoder():
    encoder = keras.layers.Dense(4, name="encoder")
    inputs = keras.Input((8,))
    return keras.Model(inputs, Tied(encoder, name="decoder")(encoder(inputs)))


def language_model():
    embedding = keras.layers.Embedding(9, 4, name="embedding")

    @register
    class Head(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="head")
            self.table = embedding

        def call(self, inputs):
            return inputs @ ops.transpose(self.table.embeddings)

    ids = keras.Input((3,), dtype="int32")
    return keras.Model(ids, Head()(embedding(ids)))


def spectrally_normalized():
    layer = keras.layers.Dense(4, name="d")
    inputs = keras.Input((8,))
    return keras.Model(inputs, keras.layers.SpectralNormalization(layer)(inputs))


@pytest.mark.feature("others: a weight that is read past its layer")
@pytest.mark.parametrize(
    ("model", "reader", "weight"),
    [
        (autoencoder, "decoder", "encoder/kernel"),
        (language_model, "head", "embedding/embeddings"),
        (spectrally_normalized, "spectral_normalization", "kernel"),
    ],
)
def test_a_weight_that_another_layer_computes_with_is_said(model, reader, weight):
    model = model()
    with pytest.warns(UserWarning, match=f"'{reader}.*' with .*{weight}.*of None"):
        sos.sparsify(model, MAGNITUDE)


@pytest.mark.feature("others: a weight that is read past its layer")
def test_a_tied_decoder_is_not_stripped(rng):
    inputs = rng.normal(size=(16, 8)).astype("float32")
    with pytest.warns(UserWarning, match="compute with the weight of another one"):
        sparse = sos.sparsify(autoencoder(), MAGNITUDE)
    fit(compiled(sparse), inputs, inputs)
    with pytest.raises(ValueError, match="does not compute what model 'functional"):
        sos.strip(sparse)


def test_models_that_draw_what_they_give_are_stripped(data):
    class Drawing(keras.layers.Layer):
        def call(self, inputs):
            return inputs + ops.convert_to_tensor(np.random.normal(size=8), "float32")

    sparse = compiled(sos.sparsify(classifier(Drawing()), MAGNITUDE))
    fit(sparse, *data, batch_size=4)
    sos.strip(sparse)


@pytest.mark.feature("others: a weight that is read past its layer")
def test_strip_finds_a_reader_that_came_later(data):
    sparse = compiled(sos.sparsify(classifier(), MAGNITUDE))
    fit(sparse, *data, batch_size=4)
    inputs = keras.Input((8,))
    layer = sparse.get_layer("logits")
    reader = Tied(layer, name="reader")
    both = keras.Model(inputs, reader(layer(inputs)))
    with pytest.raises(ValueError, match="does not compute what model 'functional"):
        sos.strip(both)
    assert type(sos.strip(both, check_outputs=False).get_layer("logits")) is (
        keras.layers.Dense
    )


@pytest.mark.feature("others: training that never says training=True")
def test_training_as_in_inference_is_noticed_once(data):
    class Distiller(keras.Model):
        def __init__(self, student):
            super().__init__()
            self.student = student

        def call(self, inputs):
            return self.student(inputs)

    student = sos.sparsify(classifier(keras.layers.Dense(6, name="d")), MAGNITUDE)
    distiller = Distiller(student)
    distiller(data[0])
    distiller.compile("sgd", from_logits())
    with pytest.warns(UserWarning, match="no steps, and becomes no sparser") as caught:
        distiller.fit(*data, batch_size=8, verbose=0)
    assert sum("becomes no sparser" in str(w.message) for w in caught) == 1
    with pytest.warns(UserWarning, match="'d' has counted 0 training steps of 4"):
        sos.sparsity_report(student)
    with pytest.warns(UserWarning, match="2 layers of 'classifier' have not ended"):
        sos.strip(student)


def test_nothing_warns_where_training_says_so(data):
    sparse = sos.sparsify(classifier(), MAGNITUDE)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        outputs_of(sparse, data[0])
        compiled(sparse, loss=from_logits())
        fit(sparse, *data, validation_data=data)
        sos.sparsity_report(sparse)
        sos.strip(sparse)


class Standardized(keras.layers.Conv1D):
    def convolution_op(self, inputs, kernel):
        mean = ops.mean(kernel, axis=(0, 1), keepdims=True)
        variance = ops.var(kernel, axis=(0, 1), keepdims=True)
        return super().convolution_op(inputs, (kernel - mean) / ops.sqrt(variance))


class Scaled(keras.layers.Dense):
    @property
    def kernel(self):
        return 10.0 * self._kernel


@pytest.mark.feature("others: a kernel that passes through a function")
@pytest.mark.parametrize(
    "layer", [Standardized(4, 2), Scaled(4)], ids=["hook", "kernel"]
)
def test_noise_is_of_the_weight_where_a_kernel_passes_through_a_function(layer, rng):
    model = keras.Sequential([keras.Input((6, 3)), layer])
    sparse = sos.sparsify(model, VARIATIONAL)
    inputs = np.repeat(rng.normal(size=(1, 6, 3)).astype("float32"), 4, axis=0)
    outputs = outputs_of(sparse, inputs, training=True)
    # One weight is drawn for the whole batch: noise of outputs would differ in it.
    np.testing.assert_allclose(outputs, outputs[:1].repeat(4, axis=0), rtol=1e-5)
    assert not np.allclose(outputs, outputs_of(model, inputs), rtol=1e-5)
    compiled(sparse)
    assert np.isfinite(fit(sparse, inputs, np.zeros(outputs.shape), epochs=3)).all()


def holder(kind):
    """A model whose `call` reaches a layer by way of something that it holds."""

    class Helper:
        def __init__(self, layer):
            self.layer = layer

        def __call__(self, inputs):
            return self.layer(inputs)

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.a = a = keras.layers.Dense(8, name="a")
            self.b = keras.layers.Dense(4, name="b")

            def with_default(inputs, layer=a):
                return layer(inputs)

            self.stem = {
                "closure": lambda inputs: self.a(inputs),
                "default": with_default,
                "partial": functools.partial(lambda layer, x: layer(x), a),
                "method": self.first,
                "helper": Helper(a),
                "method of a helper": Helper(a).__call__,
            }[kind]

        def first(self, inputs):
            return self.a(inputs)

        def call(self, inputs, training=None):
            return self.b(self.stem(inputs))

    return Net()


@pytest.mark.any_backend
@pytest.mark.feature("others: functions and objects that hold a layer")
@pytest.mark.parametrize("kind", ["closure", "default", "partial", "method"])
def test_a_function_of_a_layer_computes_with_the_copy(kind, data):
    model = holder(kind)
    model(data[0])
    sparse = compiled(sos.sparsify(model, MAGNITUDE), loss=from_logits())
    fit(sparse, *data)
    report = sos.sparsity_report(sparse)
    assert [layer.sparsity for layer in report.layers] == [0.75, 0.75]
    stripped = sos.strip(sparse)
    expected = outputs_of(stripped, data[0])
    for changed in (model, sparse):
        changed.a.kernel.assign(np.zeros((8, 8)))
        np.testing.assert_array_equal(outputs_of(stripped, data[0]), expected)


@pytest.mark.any_backend
@pytest.mark.feature("others: functions and objects that hold a layer")
@pytest.mark.parametrize("kind", ["helper", "method of a helper"])
def test_what_cannot_be_bound_to_the_copy_is_refused(kind, data):
    model = holder(kind)
    model(data[0])
    with pytest.raises(ValueError, match="that holds 'a' of it"):
        sos.sparsify(model, MAGNITUDE)


@pytest.mark.skipif(BACKEND == "torch", reason="torch.compile compiles in place")
@pytest.mark.feature("others: functions and objects that hold a layer")
def test_a_compiled_function_of_a_layer_is_refused(data):
    if BACKEND == "jax":
        import jax

        compile = jax.jit
    else:
        import tensorflow as tf

        compile = tf.function
    model = holder("method")
    model.stem = compile(model.first)
    model(data[0])
    with pytest.raises(ValueError, match="would compute with the original's"):
        sos.sparsify(model, MAGNITUDE)


@pytest.mark.any_backend
@pytest.mark.feature("others: functions and objects that hold a layer")
def test_a_class_that_names_a_layer_of_the_model_is_refused(data):
    shared = keras.layers.Dense(6, name="shared")

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = shared
            self.logits = keras.layers.Dense(4, name="logits")

        def call(self, inputs):
            return self.logits(shared(inputs))

    model = Net()
    model(data[0])
    with pytest.raises(ValueError, match="that holds 'shared' of it"):
        sos.sparsify(model, MAGNITUDE)


@pytest.mark.any_backend
def test_what_computes_nothing_for_a_model_is_shared(data):
    class Lazy:
        def __getattr__(self, name):
            raise RuntimeError(name)

    class MyAdam(keras.optimizers.Adam):
        pass

    model = classifier(keras.layers.Dense(6, name="d"))
    layer = model.get_layer("d")
    layer.parent = weakref.ref(model)
    model.lazy, model.table = Lazy(), list(range(1000))
    model.own_optimizer = MyAdam()
    model.own_optimizer.build(model.trainable_variables)
    sparse = sos.sparsify(model, MAGNITUDE)
    assert sparse.lazy is model.lazy
    assert sparse.get_layer("d").parent() is sparse


@pytest.mark.skipif(BACKEND != "torch", reason="modules are PyTorch's")
@pytest.mark.feature("others: functions and objects that hold a layer")
def test_a_module_of_pytorch_is_of_the_copy(data):
    import torch

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.module = torch.nn.Linear(8, 6)
            self.logits = keras.layers.Dense(4, name="logits")

        def call(self, inputs):
            return self.logits(self.module(inputs))

    model = Net()
    model(torch.tensor(data[0]))
    sparse = compiled(sos.sparsify(model, MAGNITUDE), loss=from_logits())
    before = to_numpy(model.module.module.weight).copy()
    fit(sparse, *data)
    np.testing.assert_array_equal(to_numpy(model.module.module.weight), before)
    assert not np.allclose(to_numpy(sparse.module.module.weight), before)


@pytest.mark.feature("others: averages of weights")
def test_masks_are_not_averaged(data):
    online = compiled(sos.sparsify(classifier(), MAGNITUDE), loss=from_logits())
    target = keras.models.clone_model(online)
    target.set_weights(online.get_weights())
    fit(online, *data)
    both = zip(online.get_weights(), target.get_weights(), strict=True)
    with pytest.raises(TypeError, match=r"mask, which takes Booleans.*float"):
        target.set_weights([0.1 * one + 0.9 * other for one, other in both])
    mask = target.get_layer("logits").mask
    with pytest.raises(TypeError, match=r"mask, which takes Booleans"):
        mask.assign(0.5 * ops.cast(mask, "float32"))
    for one, other in zip(
        online.trainable_variables, target.trainable_variables, strict=True
    ):
        other.assign(0.5 * one + 0.5 * other)
    for one, other in zip(
        online.non_trainable_variables, target.non_trainable_variables, strict=True
    ):
        other.assign(one)
    assert sos.sparsity_report(target).sparsity == 0.75


@pytest.mark.skipif(BACKEND != "torch", reason="state_dict is PyTorch's")
@pytest.mark.feature("others: state_dict of a copy before its first use")
def test_a_copy_has_its_state_before_its_first_use(data):
    model = classifier()
    sparse = sos.sparsify(model, MAGNITUDE)
    assert model.state_dict().keys() < sparse.state_dict().keys()
    stripped = sos.strip(sparse, check_outputs=False)
    assert stripped.state_dict().keys() == model.state_dict().keys()
    other = sos.sparsify(classifier(), MAGNITUDE)
    other.load_state_dict(sparse.state_dict())
    np.testing.assert_array_equal(
        outputs_of(other, data[0]), outputs_of(sparse, data[0])
    )
    names = [name for name, _ in stripped.named_parameters()]
    assert names == [name for name, _ in model.named_parameters()]


class Checked(type(keras.layers.Dense)):
    """A metaclass that lets nothing derive from its classes but what it knows."""

    def __new__(mcs, name, bases, namespace):
        assert len(bases) == 1, f"{name} has a base too many"
        return super().__new__(mcs, name, bases, namespace)


@pytest.mark.any_backend
@pytest.mark.feature("others: classes of other libraries")
def test_classes_that_nothing_can_derive_from_are_refused():
    class Own(keras.layers.Dense, metaclass=Checked):
        pass

    class WithArgument(keras.layers.Dense):
        def __init_subclass__(cls, *, registry, **kwargs):
            super().__init_subclass__(**kwargs)

    for cls in (Own, WithArgument):
        with pytest.raises(ValueError, match=f"{cls.__name__} cannot be made sparse"):
            sos.sparsify(classifier(cls(6)), MAGNITUDE)


@pytest.mark.any_backend
@pytest.mark.feature("others: classes of other libraries")
def test_slots_are_copied(data):
    class Slotted(keras.layers.Dense):
        # One name, which a string may say.
        __slots__ = "factor"

        def __init__(self, units):
            super().__init__(units)
            object.__setattr__(self, "factor", 3.0)

        def call(self, inputs, training=None):
            return self.factor * super().call(inputs)

    model = classifier(Slotted(6))
    sparse = sos.sparsify(model, MAGNITUDE)
    np.testing.assert_allclose(
        outputs_of(sparse, data[0]), outputs_of(model, data[0]), rtol=1e-6
    )


@pytest.mark.any_backend
@pytest.mark.feature("others: a layer that was frozen before")
def test_a_frozen_layer_that_becomes_sparse_is_said():
    model = classifier(keras.layers.Dense(6, name="backbone"))
    model.get_layer("backbone").trainable = False
    with pytest.warns(UserWarning, match=r"frozen .*cannot adapt.*: backbone\."):
        sos.sparsify(model, MAGNITUDE)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        sos.sparsify(model, MAGNITUDE, overrides={"backbone": None})
        masks = {n: np.array(m) for n, m in sos.weight_masks(model).items()}
        masks["logits/kernel"][0] = False
        sos.sparsify(model, sos.FixedMask(masks))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's")
@pytest.mark.feature("others: MirroredStrategy, and what comes after training")
def test_after_training_on_replicas(data, tmp_path):
    import tensorflow as tf

    class Counting(keras.layers.Layer):
        def build(self, input_shape):
            self.count = self.add_weight((), dtype="int32", trainable=False)

        def call(self, inputs):
            return inputs

    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        sparse = sos.sparsify(classifier(Counting()), MAGNITUDE)
        sparse.compile("sgd", from_logits())
        sparse.fit(*data, batch_size=4, verbose=0)
        assert sos.sparsity_report(sparse).sparsity == 0.75
    stripped = sos.strip(sparse)
    np.testing.assert_allclose(
        outputs_of(stripped, data[0]), outputs_of(sparse, data[0]), rtol=1e-6
    )
    sos.export(sparse, tmp_path / "export")
    loaded = tf.saved_model.load(tmp_path / "export")
    expected = outputs_of(sparse, data[0])
    np.testing.assert_allclose(loaded.serve(data[0]), expected, rtol=1e-5)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m: sos.sparsify(m, MAGNITUDE, {b"d": None}),
            ValueError,
            "override.*b'd'",
        ),
        (lambda m: sos.export(m, None), TypeError, "path must be .*None"),
        (lambda m: sos.save_masks(None, {}), TypeError, "path must be .*None"),
        (
            lambda m: sos.sparsity_report(m).to_csv(None),
            TypeError,
            "path must be .*None",
        ),
    ],
)
def test_one_clear_error_each(call, error, message):
    with pytest.raises(error, match=message):
        call(classifier())


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow writes the files")
def test_a_file_is_no_folder_for_logs(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="log_dir must be a folder"):
        sos.callbacks(sos.sparsify(classifier(), MAGNITUDE), log_dir=tmp_path / "file")


@pytest.mark.any_backend
@pytest.mark.feature("others: weights of another technique are refused")
@pytest.mark.parametrize("of_file", ["dense", "vd", "l0", "pruning"])
@pytest.mark.parametrize("of_model", ["vd", "l0", "pruning"])
def test_weights_of_another_technique_are_refused(of_file, of_model, tmp_path):
    techniques = {
        "vd": VARIATIONAL,
        "l0": sos.L0Regularization(1e-4),
        "pruning": MAGNITUDE,
    }

    def model(kind):
        dense = classifier()
        return sos.sparsify(dense, techniques[kind]) if kind in techniques else dense

    path = tmp_path / "model.weights.h5"
    model(of_file).save_weights(path)
    if of_file == of_model:
        model(of_model).load_weights(path)
        return
    with pytest.raises(
        ValueError, match=r"'logits' has a .* and the file .*of another technique"
    ):
        model(of_model).load_weights(path)
