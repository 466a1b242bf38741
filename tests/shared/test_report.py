"""Reports, masks, thresholds and callbacks."""

import csv

import numpy as np
import pytest

from tests.flavour import (
    compiled,
    fit,
    keras,
    sos,
    sparse_layers,
    to_numpy,
)
from tests.shared import zoo

NOW = sos.MagnitudePruning(0.6, begin_step=1, end_step=1, frequency=1)
pytestmark = pytest.mark.any_backend
reports = pytest.mark.feature("sparsity_report and weight_masks")
thresholds = pytest.mark.feature("a log alpha threshold chosen after training")
callbacks = pytest.mark.feature("sos.callbacks: penalty and sparsity in the logs")


@pytest.fixture(scope="module")
def trained():
    """A pruned model with a dense layer in it."""
    keras.utils.set_random_seed(3)
    sparse = compiled(sos.sparsify(zoo.functional(), NOW, {"shared": None}))
    fit(sparse, *zoo.data(np.random.default_rng(0)))
    return sparse


@reports
def test_a_report_is_over_all_tensors_that_could_be_sparse(trained):
    report = sos.sparsity_report(trained)
    zeros = {layer.name: layer.zeros for layer in report.layers}
    assert zeros.pop("shared/kernel") == 0
    assert "block/attention/query/kernel" in zeros
    assert {layer.technique for layer in report.layers} == {
        "magnitude_pruning",
        "dense",
    }
    (left,) = (layer for layer in report.layers if layer.technique == "dense")
    assert left.name == "shared/kernel"
    size = sum(layer.size for layer in report.layers)
    assert report.sparsity == sum(zeros.values()) / size
    assert report.sparsified == [x for x in report.layers if x is not left]
    assert report.sparsified_sparsity == sum(zeros.values()) / (size - left.size)
    for layer in report.sparsified:
        assert layer.size == np.prod(layer.shape)
        assert layer.zeros == round(0.6 * layer.size)
        assert layer.sparsity == layer.zeros / layer.size


@reports
def test_of_a_stripped_model_no_layer_counts_as_sparsified(trained):
    report = sos.sparsity_report(sos.strip(trained))
    assert report == sos.sparsity_report(trained)
    assert {layer.technique for layer in report.layers} == {"dense"}
    assert report.sparsified_sparsity == 0.0
    assert "sparsified" in str(sos.sparsity_report(trained))
    assert "sparsified" not in str(report)


@reports
def test_parameters_are_those_made_to_be_trained(trained):
    report = sos.sparsity_report(trained)
    dense = zoo.functional()
    expected = sum(int(np.prod(w.shape)) for w in dense.trainable_weights)
    assert report.parameters == expected == sos.sparsity_report(dense).parameters
    dense.trainable = False
    assert sos.sparsity_report(dense).parameters == expected
    zeros = sum(layer.zeros for layer in report.layers)
    assert report.nonzero_parameters == expected - zeros


@reports
def test_a_plain_model_reports_its_zeros():
    model = zoo.perceptron()
    kernel = to_numpy(model.get_layer("hidden").kernel).copy()
    kernel[0] = 0
    model.get_layer("hidden").kernel.assign(kernel)
    report = sos.sparsity_report(model)
    assert [layer.zeros for layer in report.layers] == [8, 0]
    np.testing.assert_array_equal(sos.weight_masks(model)["hidden/kernel"], kernel != 0)


@reports
def test_a_report_is_printed_written_and_drawn(trained, tmp_path):
    report = sos.sparsity_report(trained)
    lines = str(report).splitlines()
    assert len(lines) == len(report.layers) + 2
    assert f"{report.sparsity:.2%}" in lines[-1]
    report.to_csv(tmp_path / "layers.csv")
    with open(tmp_path / "layers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, layer in zip(rows, report.layers, strict=True):
        assert (row["name"], int(row["zeros"])) == (layer.name, layer.zeros)
        assert row["shape"] == "x".join(map(str, layer.shape))
    report.plot(tmp_path / "sparsity.png")
    assert (tmp_path / "sparsity.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def variational(rng):
    """A model of which each weight has another log alpha."""
    sparse = sos.sparsify(zoo.perceptron(), sos.VariationalDropout(1e-3))
    for layer in sparse_layers(sparse):
        layer.log_sigma2.assign(rng.normal(0, 4, size=tuple(layer.kernel.shape)))
    return sparse


def log_alphas(model):
    """In float64, after Molchanov et al. 2017."""
    for layer in sparse_layers(model):
        theta, log_sigma2 = (
            to_numpy(v).astype("float64") for v in (layer.kernel, layer.log_sigma2)
        )
        yield layer.name, log_sigma2 - np.log(theta**2 + 1e-8)


@thresholds
@pytest.mark.parametrize("threshold", [None, -2.0, 5.5])
def test_weights_go_from_the_threshold_on(variational, threshold, rng):
    masks = sos.weight_masks(variational, threshold)
    report = sos.sparsity_report(variational, log_alpha_threshold=threshold)
    stripped = sos.strip(variational, log_alpha_threshold=threshold)
    for (name, log_alpha), row in zip(
        log_alphas(variational), report.layers, strict=True
    ):
        expected = log_alpha < (3.0 if threshold is None else threshold)
        np.testing.assert_array_equal(masks[f"{name}/kernel"], expected)
        assert row.zeros == (~expected).sum()
        kernel = to_numpy(stripped.get_layer(name).kernel)
        np.testing.assert_array_equal(kernel != 0, expected)
    assert 0.05 < report.sparsity < 0.95
    # What was asked for once is not kept.
    assert {x.technique.log_alpha_threshold for x in sparse_layers(variational)} == {
        3.0
    }


@thresholds
@pytest.mark.parametrize("value", ["3", float("nan"), True])
def test_a_threshold_that_is_no_number_is_an_error(variational, value):
    with pytest.raises((TypeError, ValueError), match="log_alpha_threshold must be"):
        sos.strip(variational, log_alpha_threshold=value)


@thresholds
def test_a_threshold_without_variational_dropout_is_an_error(trained):
    with pytest.raises(ValueError, match="no layer of model 'functional' has it"):
        sos.sparsity_report(trained, log_alpha_threshold=1.0)


@callbacks
def test_the_logs_of_an_epoch_have_penalty_and_sparsity(rng):
    technique = sos.L0Regularization(0.5, ramp_begin=1, ramp_length=4)
    sparse = compiled(sos.sparsify(zoo.perceptron(), technique))
    inputs, targets = zoo.data(rng)
    history = sparse.fit(
        inputs, targets, batch_size=4, epochs=4, verbose=0,
        callbacks=sos.callbacks(sparse),
    ).history  # fmt: skip
    # The last of two steps of each epoch; steps count from zero.
    shares = [(step - 1) / 4 for step in (1, 3, 5)]
    np.testing.assert_allclose(
        history["penalty_weight"], 0.5 * np.clip([*shares, 1], 0, 1), rtol=1e-6
    )
    assert history["sparsity"][-1] == sos.sparsity_report(sparse).sparsity
    log_alphas = [
        to_numpy(x.log_alpha).astype("float64") for x in sparse_layers(sparse)
    ]
    expected = sum(
        np.sum(1 / (1 + np.exp(-(a - 2 / 3 * np.log(0.1 / 1.1))))) for a in log_alphas
    )
    np.testing.assert_allclose(history["penalty"][-1], expected, rtol=1e-5)


@callbacks
def test_logs_of_pruning_are_left_as_they_are(rng):
    sparse = compiled(sos.sparsify(zoo.perceptron(), NOW))
    inputs, targets = zoo.data(rng)
    history = sparse.fit(inputs, targets, verbose=0, callbacks=sos.callbacks(sparse))
    assert set(history.history) == {"loss"}


@callbacks
def test_a_model_without_sparse_layers_needs_no_callbacks():
    with pytest.raises(ValueError, match="'perceptron' has no sparse layers"):
        sos.callbacks(zoo.perceptron())


@pytest.mark.feature("sos.callbacks: sparsity for TensorBoard")
def test_tensorboard_gets_the_sparsity_of_each_tensor(trained, rng, tmp_path):
    event_file_loader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_file_loader"
    )
    inputs, targets = zoo.data(rng)
    trained.fit(
        inputs, targets, verbose=0, epochs=2, callbacks=sos.callbacks(trained, tmp_path)
    )
    (path,) = tmp_path.iterdir()
    found = {
        (value.tag, event.step)
        for event in event_file_loader.EventFileLoader(str(path)).Load()
        for value in event.summary.value
    }
    names = {f"sparsity/{x.name}" for x in sos.sparsity_report(trained).layers}
    tags = {tag for tag, _ in found}
    assert tags == names | {"sparsity"}
    assert len(found) == 2 * len(tags)
