"""Sessions compute what ONNX Runtime does, and say what is wrong with what they get."""

import concurrent.futures
import gc
import json
import logging
import os
import re
import threading
import time

import numba
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from state_of_sparsity.runtime import (
    RuntimeFileError,
    Session,
    chains,
    kernels,
    layouts,
    load,
    tuning,
    write,
)
from tests.runtime import networks


def residual_network(density=0.15, size=10):
    """A stem, two blocks, one of them strided, and a classifier."""

    def weights(seed, *shape):
        return networks.numbers(*shape, seed=seed, density=density)

    padded = {"pads": [1, 1, 1, 1]}
    nodes = [
        ("Conv", ["x", "w0"], ["a"], padded),
        ("Relu", ["a"], ["b"], {}),
        ("MaxPool", ["b"], ["c"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Conv", ["c", "w1", "b1"], ["d"], padded),
        ("Relu", ["d"], ["e"], {}),
        ("Conv", ["e", "w2"], ["f"], {}),
        ("Add", ["f", "c"], ["g"], {}),
        ("Relu", ["g"], ["h"], {}),
        ("Conv", ["h", "w3", "b1"], ["i"], {"strides": [2, 2], **padded}),
        ("Relu", ["i"], ["j"], {}),
        ("Conv", ["h", "w4"], ["k"], {"strides": [2, 2]}),
        ("Add", ["j", "k"], ["l"], {}),
        ("GlobalAveragePool", ["l"], ["m"], {}),
        ("Flatten", ["m"], ["n"], {}),
        ("Gemm", ["n", "w5", "b5"], ["y"], {}),
    ]
    given = {
        "w0": networks.numbers(16, 3, 3, 3),
        "w1": weights(1, 16, 16, 3, 3),
        "b1": networks.numbers(16, seed=2),
        "w2": weights(3, 16, 16, 1, 1),
        "w3": weights(4, 16, 16, 3, 3),
        "w4": weights(5, 16, 16, 1, 1),
        "w5": networks.numbers(16, 7),
        "b5": networks.numbers(7, seed=6),
    }
    return networks.model(
        nodes, given, {"x": ["batch", 3, size, size]}, {"y": ["batch", 7]}
    )


def layer_of_transformer():
    """A dense layer of a Transformer with its normalization, of any length."""
    nodes = [
        ("MatMul", ["x", "w0"], ["a"], {}),
        ("Add", ["a", "b0"], ["b"], {}),
        ("Relu", ["b"], ["c"], {}),
        ("MatMul", ["c", "w1"], ["d"], {}),
        ("Add", ["d", "b1"], ["e"], {}),
        ("Add", ["e", "x"], ["f"], {}),
        ("LayerNormalization", ["f", "s", "b1"], ["y"], {}),
    ]
    given = {
        "w0": networks.numbers(12, 40, density=0.2),
        "b0": networks.numbers(40, seed=1),
        "w1": networks.numbers(40, 12, seed=2, density=0.2),
        "b1": networks.numbers(12, seed=3),
        "s": networks.numbers(12, seed=4),
    }
    shape = ["batch", "length", 12]
    return networks.model(nodes, given, {"x": shape}, {"y": shape})


def check(session, model, x):
    expected = networks.expected(model, {"x": x})["y"]
    np.testing.assert_allclose(session.run(x)["y"], expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def model():
    return residual_network()


@pytest.fixture
def path(model, tmp_path):
    """The file of the model."""
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("tune", [False, True])
def test_a_residual_network_is_that_of_onnx_runtime_for_batches_in_turn(model, tune):
    session = load(model, threads=1, tune=tune)
    x = networks.numbers(1, 3, 10, 10)
    first = session.run(x)["y"]
    kept = first.copy()
    for seed, batch in enumerate([1, 2, 1, 5]):
        check(session, model, networks.numbers(batch, 3, 10, 10, seed=seed))
    # Outputs stay when others are computed.
    np.testing.assert_array_equal(first, kept)


def test_large_batches_go_in_parts(model, monkeypatch):
    monkeypatch.setattr(chains, "_CACHED", 16 * 25)
    session = load(model, threads=1, tune=False)
    x = networks.numbers(6, 3, 10, 10)
    check(session, model, x)
    lines = session.profile(x).lines
    assert any("batch in 6" in line.kernel for line in lines)


def test_lengths_of_any_size():
    model = layer_of_transformer()
    session = load(model, threads=1, tune=False)
    for batch, length in [(1, 7), (3, 5), (2, 33)]:
        x = networks.numbers(batch, length, 12)
        check(session, model, x)
        kernels = [line.kernel for line in session.profile(x).lines]
        assert sum("sparse" in kernel for kernel in kernels) == 2


def test_all_threads_compute_the_same(model):
    cores = len(os.sched_getaffinity(0))
    x = networks.numbers(4, 3, 10, 10)
    one = load(model, threads=1, tune=False).run(x)["y"]
    session = load(model, threads=cores, tune=False)
    for _ in range(20):
        np.testing.assert_allclose(session.run(x)["y"], one, rtol=1e-5, atol=1e-6)


def test_threads_that_help_end_with_the_session(model):
    cores = len(os.sched_getaffinity(0))
    before = threading.active_count()
    session = load(model, threads=cores, tune=False)
    session.run(networks.numbers(1, 3, 10, 10))
    assert threading.active_count() == before + cores - 1
    del session
    gc.collect()
    end = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_calls_from_several_threads_do_not_mix(model):
    session = load(model, threads=1, tune=False)
    inputs = [networks.numbers(1, 3, 10, 10, seed=seed) for seed in range(4)]
    alone = [session.run(x)["y"] for x in inputs]

    def is_right(x, y):
        return all(np.array_equal(session.run(x)["y"], y) for _ in range(20))

    with concurrent.futures.ThreadPoolExecutor(4) as callers:
        assert all(callers.map(is_right, inputs, alone))


def test_a_dense_model_is_left_to_onnx_runtime(monkeypatch):
    def compiled():
        raise AssertionError("compiles for nothing")

    monkeypatch.setattr(kernels, "compiled", compiled)
    model = residual_network(density=1.0)
    session = load(model, threads=1)
    x = networks.numbers(2, 3, 10, 10)
    check(session, model, x)
    monkeypatch.undo()
    (line,) = session.profile(x).lines
    assert "ONNX Runtime" in line.kernel


def test_inputs_come_as_array_sequence_or_dictionary(model):
    session = load(model, threads=1, tune=False)
    x = networks.numbers(1, 3, 10, 10)
    outputs = [session.run(given)["y"] for given in (x, [x], (x,), {"x": x})]
    # Whatever their order in memory.
    outputs.append(session.run(np.asfortranarray(x))["y"])
    for y in outputs[1:]:
        np.testing.assert_array_equal(y, outputs[0])


def test_shapes_that_depend_on_values_are_followed():
    nodes = [
        ("MatMul", ["x", "w"], ["a"], {}),
        ("Relu", ["a"], ["b"], {}),
        ("NonZero", ["b"], ["y"], {}),
    ]
    weights = {"w": networks.numbers(6, 5, density=0.2)}
    outputs = {"y": (TensorProto.INT64, [2, None]), "b": ["n", 5]}
    model = networks.model(nodes, weights, {"x": ["n", 6]}, outputs)
    session = load(model, threads=1, tune=False)
    for seed in range(4):
        x = networks.numbers(3, 6, seed=seed)
        np.testing.assert_array_equal(
            session.run(x)["y"], np.stack(np.nonzero(session.run(x)["b"]))
        )


def test_strings_go_through_onnx_runtime():
    shape = (TensorProto.STRING, ["n"])
    nodes = [("Identity", ["x"], ["y"], {})]
    session = load(networks.model(nodes, {}, {"x": shape}, {"y": shape}), threads=1)
    assert session.inputs == [("x", ("n",), "object")]
    assert list(session.run(np.array(["a", "bc"]))["y"]) == ["a", "bc"]


def test_a_first_size_that_may_not_be_one_waits_for_inputs():
    nodes = [
        ("Reshape", ["x", "shape"], ["a"], {}),
        ("MatMul", ["a", "w"], ["y"], {}),
    ]
    weights = {"shape": np.array([-1, 6]), "w": networks.numbers(6, 4, density=0.2)}
    model = networks.model(nodes, weights, {"x": ["n", 4]}, {"y": ["m", 4]})
    check(load(model, threads=1, tune=False), model, networks.numbers(3, 4))


def test_tuned_choices_are_kept_beside_the_file(model, path, monkeypatch):
    load(path, threads=1)
    notes = json.loads(path.with_name("model.onnx.tuned.json").read_text())
    assert len(notes["plans"]) == 1

    def timed(*arguments):
        raise AssertionError("timed again")

    monkeypatch.setattr(tuning, "by_time", timed)
    check(load(path, threads=1), model, networks.numbers(1, 3, 10, 10))
    with pytest.raises(AssertionError, match="timed again"):
        load(path, threads=1).run(networks.numbers(2, 3, 10, 10))


def test_plans_that_are_tried_share_shapes_and_leave_no_sessions(monkeypatch):
    nodes = [
        ("MatMul", ["x", "w"], ["a"], {}),
        ("Sigmoid", ["x"], ["b"], {}),
        ("Mul", ["a", "b"], ["c"], {}),
        ("MatMul", ["c", "v"], ["y"], {}),
    ]
    weights = {
        "w": networks.numbers(32, 32, seed=1, density=0.1),
        "v": networks.numbers(32, 32, seed=2, density=0.1),
    }
    model = networks.model(nodes, weights, {"x": [64, 32]}, {"y": [64, 32]})
    observed, observe = [], Session._observed

    def counted(self, inputs, names):
        observed.extend([names] if names else [])
        return observe(self, inputs, names)

    def tilings(found, *arguments):
        return {product.name: layouts.Tiling(1) for product in found}

    monkeypatch.setattr(Session, "_observed", counted)
    monkeypatch.setattr(tuning, "by_time", tilings)
    # As if the last one, the dense one, was the fastest of three.
    monkeypatch.setattr(tuning, "seconds", lambda jobs, *limit: [3.0, 2.0, 1.0])
    session = load(model, threads=1)
    assert len(observed) == 2
    assert not session._parts
    check(session, model, networks.numbers(64, 32))


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_one_thread_of_several_may_be_chosen(model, path, monkeypatch):
    real = tuning.seconds

    def seconds(jobs, *limit):
        """As if of whole plans, of which the last is dense, the one before was best."""
        times = real(jobs, *limit)
        return [float(job is not jobs[-2]) for job in jobs] if limit else times

    monkeypatch.setattr(tuning, "seconds", seconds)
    chosen = load(path, threads=2)
    monkeypatch.undo()
    (plan,) = json.loads(path.with_name("model.onnx.tuned.json").read_text())[
        "plans"
    ].values()
    assert plan["threads"] == 1
    kept = load(path, threads=2)
    for session in (chosen, kept):
        check(session, model, networks.numbers(1, 3, 10, 10))
        assert session.threads == 2
        assert session.profile().threads == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"version": 2, "plans": 3}',
        '{"version": 1, "plans": {"KEY": {}}}',
        '{"version": 2, "plans": {"KEY": {"tilings": {}, "threads": 3}}}',
        '{"version": 2, "plans": {"KEY": {"tilings": {}, "threads": 1}}}',
        '{"version": 2, "plans": {"KEY": {"tilings": {"no": [1, 1]}, "threads": 1}}}',
    ],
)
def test_a_damaged_file_of_choices_is_as_none(model, path, text, monkeypatch):
    monkeypatch.setattr(tuning.Notes, "key", lambda *arguments: "KEY")
    path.with_name("model.onnx.tuned.json").write_text(text)
    check(load(path, threads=1), model, networks.numbers(1, 3, 10, 10))


def test_choices_that_cannot_be_kept_do_no_harm(model, path, monkeypatch, caplog):

    def full(*arguments, **options):
        raise OSError("Read-only file system")

    monkeypatch.setattr(tuning, "replacing", full)
    with caplog.at_level(logging.INFO, "state_of_sparsity.runtime"):
        check(load(path, threads=1), model, networks.numbers(1, 3, 10, 10))
    assert "Read-only file system" in caplog.text


def test_a_profile_prints_all_products_and_parts(model):
    table = load(model, threads=1, tune=False).profile()
    text = str(table)
    assert sum("sparse" in line.kernel for line in table.lines) == 4
    for line in table.lines:
        assert line.name in text
        assert line.milliseconds > 0
        assert line.bound >= 0
    first = next(line for line in table.lines if "sparse" in line.kernel)
    nonzero = np.count_nonzero(networks.numbers(16, 16, 3, 3, seed=1, density=0.15))
    assert first.density == nonzero / (16 * 16 * 9)
    assert first.multiply_adds == pytest.approx(nonzero * 25 / 1e6)
    assert first.megabytes == pytest.approx((8 * nonzero + 4 * 2 * 16 * 25) / 1e6)


X = networks.numbers(1, 3, 10, 10)
BAD_INPUTS = [
    (ValueError, r"\['x'\].*'z'", {"z": X}),
    (ValueError, "takes 1 inputs.*Received: 2", [X, X]),
    (ValueError, "takes 1 inputs.*Received: 0", []),
    (TypeError, "'x'.*float32.*float64", X.astype("float64")),
    (ValueError, r"'x'.*Received: \(3, 10, 10\)", X[0]),
    (ValueError, r"'x'.*Received: \(1, 3, 9, 10\)", X[:, :, 1:]),
]


@pytest.mark.parametrize(("error", "match", "inputs"), BAD_INPUTS)
def test_wrong_inputs_are_named(model, error, match, inputs):
    with pytest.raises(error, match=match):
        load(model, threads=1, tune=False).run(inputs)


def test_inputs_that_do_not_fit_each_other_are_named():
    nodes = [("MatMul", ["x", "w"], ["a"], {}), ("Add", ["a", "z"], ["y"], {})]
    model = networks.model(
        nodes,
        {"w": networks.numbers(4, 4, density=0.2)},
        {"x": ["n", 4], "z": ["n", 4]},
        {"y": ["n", 4]},
    )
    session = load(model, threads=1, tune=False)
    with pytest.raises(ValueError, match=r"cannot compute.*\(\(3, 4\), \(2, 4\)\)"):
        session.run([networks.numbers(3, 4), networks.numbers(2, 4)])
    with pytest.raises(TypeError, match=r"'x'.*float32"):
        session.run(["text", "text"])


@pytest.mark.parametrize(
    ("threads", "error"), [(0, ValueError), (10_000, ValueError), ("2", TypeError)]
)
def test_threads_are_a_number_from_one_to_the_cores(model, threads, error):
    with pytest.raises(error, match=rf"threads has to be.*{threads}"):
        load(model, threads=threads)


def with_nan():
    weights = networks.numbers(16, 16, 1, 1)
    weights[3, 4] = np.nan
    given = {"w2": weights}
    nodes = [("Conv", ["x", "w2"], ["y"], {})]
    return networks.model(nodes, given, {"x": ["n", 16, 4, 4]}, {"y": None})


UNKNOWN = networks.model([("Nonsense", ["x"], ["y"], {})], {}, {"x": [1]}, {"y": [1]})


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (with_nan(), ValueError, "1 NaN in 'w2'"),
        (UNKNOWN, ValueError, r"ONNX Runtime cannot run.*Nonsense"),
        (3, TypeError, "Received: int"),
        ("nothing.onnx", FileNotFoundError, r"nothing\.onnx"),
    ],
)
def test_what_cannot_be_loaded_is_named(given, error, match):
    with pytest.raises(error, match=match):
        load(given)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("model.onnx", b"", ValueError),
        ("model.onnx", bytes(range(256)), ValueError),
        ("model.sparse", None, RuntimeFileError),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, error):
    path = tmp_path / name
    if content is None:
        write(residual_network(), path)
        content = path.read_bytes()[:-100]
    path.write_bytes(content)
    with pytest.raises(error, match=re.escape(str(path))):
        load(path)


def test_open_sizes_need_inputs_for_a_profile():
    with pytest.raises(ValueError, match="pass inputs"):
        load(layer_of_transformer(), threads=1, tune=False).profile()


def test_compiling_is_said_once_and_a_cache_that_fails_is_done_without(
    tmp_path, monkeypatch, caplog
):
    def enter(control, program, member, spins):
        """As if of the kernels; it compiles at once."""

    monkeypatch.setattr(kernels, "_from", lambda sources: enter)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    compiled = kernels.compiled.__wrapped__
    compiled()
    assert caplog.text.count("Compiling the kernels") == 1
    caplog.clear()
    compiled()
    assert not caplog.text
    locators = "numba.core.caching.CompileResultCacheImpl._locator_classes"
    monkeypatch.setattr(locators, [])
    assert compiled()
    assert "Compiled kernels are not kept" in caplog.text
