"""Models in sparse files: the same again, and every damage one clear error."""

import hashlib
import json
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import onnx
import pytest
import safetensors.numpy
import zstandard
from onnx import TensorProto, helper, numpy_helper

from state_of_sparsity import runtime
from state_of_sparsity.runtime import encodings, files, graphs
from tests.runtime import networks

KEY = "state_of_sparsity"
FLOAT = TensorProto.FLOAT


def sparse(rng, *shape, sparsity=0.9):
    seed = int(rng.integers(2**31))
    return networks.numbers(*shape, seed=seed, density=1 - sparsity)


def perceptron(rng, sparsity=0.9):
    """Two products, one of them with its matrix in a node."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Add", ["h", "b"], ["r"]),
        node("Constant", [], ["v"], value=numpy_helper.from_array(sparse(rng, 30, 30))),
        node("Gemm", ["r", "v"], ["y"], transB=1),
    ]
    weights = {
        "w": sparse(rng, 20, 30, sparsity=sparsity),
        "b": rng.normal(size=30).astype("float32"),
    }
    return networks.model(nodes, weights, {"x": [None, 20]}, {"y": [None, 30]})


def outputs_of(model, inputs):
    return networks.expected(model, {"x": inputs})["y"]


def bits_of(model):
    return [
        (t.name, t.data_type, tuple(t.dims), numpy_helper.to_array(t).tobytes())
        for t in graphs.tensors(model)
    ]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.sparse"


def header_of(path):
    """What the header says, read as the format's page describes it."""
    contents = path.read_bytes()
    (length,) = struct.unpack("<Q", contents[:8])
    header = json.loads(contents[8 : 8 + length])
    return json.loads(header["__metadata__"][KEY])


@pytest.mark.parametrize("sparsity", [0, 0.9, 1])
def test_a_lossless_file_gives_the_same_model_again(rng, path, sparsity):
    model = perceptron(rng, sparsity)
    runtime.write(model, path)
    read = runtime.read(path)
    assert bits_of(read) == bits_of(model)
    assert [node.op_type for node in read.graph.node] == [
        node.op_type for node in model.graph.node
    ]
    inputs = rng.normal(size=(3, 20)).astype("float32")
    assert outputs_of(read, inputs).tobytes() == outputs_of(model, inputs).tobytes()
    onnx.checker.check_model(read)


@pytest.mark.parametrize("values", ["float32", "float16"])
def test_zeros_have_a_sign_as_long_as_one_wants_it(rng, tmp_path, values):
    model = perceptron(rng)
    weight = model.graph.initializer[0]
    signed = numpy_helper.to_array(weight) * np.float32(-1)
    assert np.signbit(signed[signed == 0]).all()
    weight.CopyFrom(numpy_helper.from_array(signed, "w"))
    with_signs, without = tmp_path / "with", tmp_path / "without"
    runtime.write(model, with_signs, values)
    runtime.write(model, without, values, signed_zeros=False)
    read = numpy_helper.to_array(runtime.read(with_signs).graph.initializer[0])
    assert (np.signbit(read) == np.signbit(signed)).all()
    read = numpy_helper.to_array(runtime.read(without).graph.initializer[0])
    assert not np.signbit(read[read == 0]).any()
    np.testing.assert_allclose(read, signed, rtol=1e-3)
    assert without.stat().st_size < with_signs.stat().st_size


def test_two_files_of_a_model_are_the_same_bytes_and_it_stays_as_it_was(rng, tmp_path):
    model = perceptron(rng)
    before = model.SerializeToString(deterministic=True)
    for name in ("one", "two"):
        runtime.write(model, tmp_path / name, "int8")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert model.SerializeToString(deterministic=True) == before


def test_a_reader_of_the_page_finds_the_weights(rng, path):
    """By the description of the format alone, without this library."""
    model = perceptron(rng, 0.95)
    runtime.write(model, path)
    parts = safetensors.numpy.load_file(path)
    entries = header_of(path)["tensors"]
    (index,) = [i for i, entry in enumerate(entries) if entry["name"] == "w"]
    assert entries[index]["shape"] == [20, 30]
    assert entries[index]["mask"] == "gaps"

    def unpacked(name):
        frames = parts[f"{index}.{name}"].tobytes()
        reader = zstandard.ZstdDecompressor().stream_reader(
            frames, read_across_frames=True
        )
        return np.frombuffer(reader.read(), np.uint8)

    weights, position = np.zeros(600, "<f4"), -1
    planes = unpacked("values").reshape(4, -1)
    values = iter(np.ascontiguousarray(planes.T).view("<f4").ravel())
    for byte in unpacked("mask"):
        position += int(byte) + (byte != 255)
        if byte != 255:
            weights[position] = next(values)
    expected = numpy_helper.to_array(model.graph.initializer[0])
    assert weights.reshape(20, 30).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("values", "size", "tolerance"), [("float16", 0.7, 1e-3), ("int8", 0.6, 0.02)]
)
def test_rounded_weights_take_less_and_give_nearly_the_same(
    rng, tmp_path, values, size, tolerance
):
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = networks.model(
        [node], {"w": sparse(rng, 20, 2000)}, {"x": [None, 20]}, {"y": [None, 2000]}
    )
    exact, rounded = tmp_path / "exact", tmp_path / "rounded"
    runtime.write(model, exact)
    runtime.write(model, rounded, values)
    # Of the 2000 scales, too.
    if values == "float16":
        assert rounded.stat().st_size < size * exact.stat().st_size
    inputs = rng.normal(size=(5, 20)).astype("float32")
    expected = outputs_of(model, inputs)
    found = outputs_of(runtime.read(rounded), inputs)
    assert 0 < np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def test_biases_and_tables_that_nothing_multiplies_with_keep_their_bits(rng, path):
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Add", ["h", "b"], ["a"]),
        node("Add", ["a", "table"], ["y"]),
    ]
    constants = {
        "w": sparse(rng, 20, 400),
        "b": rng.normal(size=400).astype("float32"),
        "table": rng.normal(size=(1, 400)).astype("float32"),
    }
    model = networks.model(nodes, constants, {"x": [None, 20]}, {"y": [None, 400]})
    runtime.write(model, path, "int8")
    stored = {entry["name"]: entry["values"] for entry in header_of(path)["tensors"]}
    assert stored == {"w": "int8", "b": "exact", "table": "exact"}
    read = {
        t.name: numpy_helper.to_array(t) for t in runtime.read(path).graph.initializer
    }
    assert read["b"].tobytes() == constants["b"].tobytes()
    assert read["table"].tobytes() == constants["table"].tobytes()
    assert (read["w"][constants["w"] == 0] == 0).all()


@pytest.mark.parametrize(
    ("node", "shape", "axes"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"]), (16, 4, 3, 3), (0,)),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"]), (16, 4, 3, 3), (1,)),
        (helper.make_node("Gemm", ["x", "w"], ["y"]), (20, 30), (1,)),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), (20, 30), (0,)),
        (helper.make_node("Gemm", ["w", "x"], ["y"]), (20, 30), (0,)),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (20, 30), (1,)),
        (helper.make_node("MatMul", ["w", "x"], ["y"]), (20, 30), (0,)),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (3, 20, 30), (0, 2)),
        (helper.make_node("Gather", ["w", "x"], ["y"]), (50, 8), (0,)),
        (helper.make_node("LSTM", ["x", "w", "w"], ["y"]), (1, 40, 10), (0, 1)),
        (
            helper.make_node("Einsum", ["x", "w"], ["y"], equation="abc,cde->abde"),
            (12, 4, 8),
            (1, 2),
        ),
        (
            helper.make_node("Einsum", ["x", "w"], ["y"], equation="...c,cd->...d"),
            (20, 30),
            (1,),
        ),
    ],
    ids=lambda value: getattr(value, "op_type", None),
)
def test_the_axes_of_the_scales_are_those_of_the_outputs(rng, path, node, shape, axes):
    model = networks.model([node], {"w": sparse(rng, *shape)}, {"x": None}, {"y": None})
    runtime.write(model, path, "int8")
    (entry,) = header_of(path)["tensors"]
    assert (entry["values"], tuple(entry["axes"])) == ("int8", axes)


def test_tensors_within_loops_and_functions_are_stored_apart(rng, path):
    weights = numpy_helper.from_array(sparse(rng, 30, 30), "inner")
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "inner"], ["next"]),
            helper.make_node("Identity", ["go"], ["again"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, [None, 30]),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, [None, 30]),
        ],
        [weights],
    )
    offset = numpy_helper.from_array(rng.normal(size=(1, 300)).astype("float32"))
    function = helper.make_function(
        "own",
        "shift",
        ["a"],
        ["b"],
        [
            helper.make_node("Constant", [], ["c"], value=offset),
            helper.make_node("Add", ["a", "c"], ["b"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node("Loop", ["n", "", "x"], ["y"], body=body),
        helper.make_node("shift", ["y"], ["z"], domain="own"),
    ]
    model = networks.model(
        nodes,
        {"n": np.array(3)},
        {"x": [None, 30]},
        {"z": None},
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("own", 1)],
        functions=[function],
    )
    runtime.write(model, path)
    assert [e["shape"] for e in header_of(path)["tensors"]] == [[30, 30], [1, 300]]
    assert bits_of(runtime.read(path)) == bits_of(model)
    runtime.write(model, path, "int8")
    assert [e["values"] for e in header_of(path)["tensors"]] == ["int8", "exact"]


def test_sparse_tensors_of_onnx_are_stored_apart_too(rng, path):
    model = perceptron(rng)
    places = np.arange(0, 9000, 9)
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(rng.normal(size=1000).astype("float32"), "s"),
            numpy_helper.from_array(places),
            [9000],
        )
    )
    runtime.write(model, path)
    assert [1000] in [entry["shape"] for entry in header_of(path)["tensors"]]
    assert runtime.read(path).graph.sparse_initializer[0].dims == [9000]
    assert bits_of(runtime.read(path)) == bits_of(model)


def test_types_without_whole_bytes_stay_in_the_graph(path):
    strings = helper.make_tensor("s", TensorProto.STRING, [500], [b"abc"] * 500)
    nibbles = helper.make_tensor("n", TensorProto.INT4, [4000], [1] * 4000)
    model = networks.model(
        [helper.make_node("Identity", ["x"], ["y"])], {}, {"x": None}, {"y": None}
    )
    model.graph.initializer.extend([strings, nibbles])
    runtime.write(model, path)
    assert header_of(path)["tensors"] == []
    assert runtime.read(path) == model


def test_the_dense_model_is_given_back_as_onnx(rng, path, tmp_path):
    model = perceptron(rng)
    runtime.write(model, path)
    runtime.to_onnx(path, tmp_path / "new" / "model.onnx")
    assert bits_of(onnx.load(tmp_path / "new" / "model.onnx")) == bits_of(model)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["model.onnx"]


def test_more_than_onnx_can_hold_is_refused(rng, path, tmp_path, monkeypatch):
    runtime.write(perceptron(rng), path)
    monkeypatch.setattr(files, "_LARGEST_ONNX", 1000)
    with pytest.raises(ValueError, match=r"GB when dense.*save_as_external_data=True"):
        runtime.to_onnx(path, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == [path]


def test_files_are_known_by_their_first_bytes(rng, path, tmp_path):
    model = perceptron(rng)
    runtime.write(model, path)
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "empty").touch()
    assert files.is_sparse_file(path)
    assert not files.is_sparse_file(tmp_path / "model.onnx")
    assert not files.is_sparse_file(tmp_path / "empty")


@pytest.mark.parametrize(
    ("model", "values", "error", "message"),
    [
        (None, "bfloat16", ValueError, r"one of \['float32', 'float16', 'int8'\].*'bf"),
        (b"onnx", "float32", TypeError, "must be an onnx.ModelProto.*bytes"),
        (np.nan, "int8", ValueError, "Tensor 'w': some weights are not finite"),
        (1e6, "float16", ValueError, "Tensor 'w': weights up to 1e.06 are more than"),
    ],
)
def test_what_cannot_be_written_is_refused(rng, path, model, values, error, message):
    if isinstance(model, float):
        weight, model = model, perceptron(rng)
        array = numpy_helper.to_array(model.graph.initializer[0]).copy()
        array[0, 0] = weight
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
    path.write_text("of before")
    with pytest.raises(error, match=message):
        runtime.write(model, path, values)
    assert path.read_text() == "of before"
    assert list(path.parent.iterdir()) == [path]


def test_tensors_in_further_files_are_refused(rng, path, tmp_path):
    onnx.save(perceptron(rng), tmp_path / "m.onnx", save_as_external_data=True)
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    with pytest.raises(
        ValueError, match=r"Tensor 'w' is in a file of its own.*onnx\.load"
    ):
        runtime.write(model, path)


def test_an_interrupt_leaves_what_was_there(rng, path, monkeypatch):
    def interrupted(arrays, name, metadata):
        pathlib.Path(name).write_text("half")
        raise KeyboardInterrupt

    path.write_text("of before")
    monkeypatch.setattr(safetensors.numpy, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runtime.write(perceptron(rng), path)
    assert list(path.parent.iterdir()) == [path]
    assert path.read_text() == "of before"


def resealed(path, change):
    """Changes header and parts of a file, and gives it the checksum that fits."""
    header, parts = header_of(path), dict(safetensors.numpy.load_file(path))
    parts = {name: part.tobytes() for name, part in parts.items()}
    del header["sha256"]
    change(header, parts)
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode())
    for name in sorted(parts):
        digest.update(f"\n{name} {len(parts[name])}\n".encode())
        digest.update(parts[name])
    header["sha256"] = digest.hexdigest()
    safetensors.numpy.save_file(
        {name: np.frombuffer(part, np.uint8) for name, part in parts.items()},
        path,
        {KEY: json.dumps(header)},
    )


def test_a_checksum_of_ones_own_is_accepted(rng, path):
    """So that the following tests are about what comes after it."""
    model = perceptron(rng)
    runtime.write(model, path)
    resealed(path, lambda header, parts: None)
    assert bits_of(runtime.read(path)) == bits_of(model)


def entry(**changes):
    return lambda header, parts: header["tensors"][0].update(changes)


def part(name, contents):
    return lambda header, parts: parts.update({name: contents})


CHANGES = {
    "version 2 of the format": lambda header, parts: header.update(version=2),
    "no sparse model": lambda header, parts: header.pop("version"),
    "shape": entry(shape=[20, -30]),
    "not in the file as": entry(shape=[30, 20]),
    "shape ": entry(shape=[0, 2**62]),
    "stand for": lambda header, parts: header.update(decoded=2**40),
    "tensors have": entry(shape=[20, 30, 2**40]),
    "'COMPLEX64'|damaged": entry(dtype="COMPLEX64"),
    "'pickle'": entry(mask="pickle"),
    "'pickle' ": entry(values="pickle"),
    "no use for scales": part("0.scales", b""),
    "does not use all": part("further", b""),
    "values'": lambda header, parts: parts.pop("0.values"),
    "damaged": part("graph", encodings.pack(b"graph")),
    "damaged ": lambda header, parts: parts.pop("graph"),
    "bytes where": part("0.values", encodings.pack(b"")),
    "more than": part("0.values", encodings.pack(bytes(2**26))),
    "more than ": part("0.mask", encodings.pack(bytes(2**26))),
    "more than  ": part("graph", encodings.pack(bytes(2**26))),
    r"no axes \(7,\) in \(20, 30\)": entry(axes=[7]),
}


def read_or_error(path):
    """The model or the error that a file is, and the most memory that it took."""
    tracemalloc.start()
    try:
        read = runtime.read(path)
    except runtime.RuntimeFileError as error:
        read = error
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return read, peak


def test_what_does_not_fit_is_an_error_and_takes_no_memory(rng, tmp_path):
    for values in ("float32", "int8"):
        runtime.write(perceptron(rng), tmp_path / values, values)
    for message, change in CHANGES.items():
        values = "int8" if "no axes" in message else "float32"
        path = shutil.copy(tmp_path / values, tmp_path / "model.sparse")
        resealed(path, change)
        error, peak = read_or_error(path)
        assert isinstance(error, runtime.RuntimeFileError), message
        assert re.search(message.strip(), str(error)), error
        assert str(path) in str(error)
        assert peak < 2**20


ANOTHER = safetensors.numpy.save({"a": np.zeros(3)}, {"format": "pt"})


@pytest.mark.parametrize("contents", [b"", b"PK\3\4" * 50, b"{}" * 500, ANOTHER])
def test_a_foreign_file_is_an_error(path, contents):
    path.write_bytes(contents)
    with pytest.raises(runtime.RuntimeFileError, match=r"model\.sparse' is no sparse"):
        runtime.read(path)


def test_an_almost_empty_model_makes_a_file_that_may_be_read(path):
    """A reader bounds memory by the size of the file: it has to be large enough."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    zeros = {"w": np.zeros((2000, 2000), "float32")}
    model = networks.model([node], zeros, {"x": [None, 2000]}, {"y": [None, 2000]})
    runtime.write(model, path)
    assert path.stat().st_size < 16e6 / 900
    assert bits_of(runtime.read(path)) == bits_of(model)


def damaged(contents, rng):
    """A file that is cut, or with bits flipped: in a half of them in the header."""
    contents = bytearray(contents)
    (length,) = struct.unpack("<Q", contents[:8])
    end = rng.choice([8 + length, len(contents)])
    if rng.random() < 0.3:
        del contents[rng.integers(end) :]
    else:
        for place in rng.integers(end, size=rng.integers(1, 4)):
            contents[place] ^= 1 << rng.integers(8)
    return bytes(contents)


@pytest.mark.parametrize("values", ["float32", "int8"])
def test_of_50_damaged_files_each_is_an_error_or_the_same_model(path, values):
    rng = np.random.default_rng([len(values), 0])
    runtime.write(perceptron(rng), path, values)
    contents, expected = path.read_bytes(), bits_of(runtime.read(path))
    for _ in range(50):
        path.write_bytes(damaged(contents, rng))
        read, peak = read_or_error(path)
        # No more than the file and the dense model, several times.
        assert peak < 2**17 + 8 * len(contents)
        if isinstance(read, runtime.RuntimeFileError):
            assert str(path) in str(read)
        else:
            assert bits_of(read) == expected


def test_the_runtime_imports_no_framework_and_little_else_of_the_library():
    code = (
        "import sys, state_of_sparsity.runtime as r; "
        "[getattr(r, n) for n in ('load', 'read', 'write', 'to_onnx')]; "
        "print([m for m in sys.modules if m.partition('.')[0] in "
        "('keras', 'tf_keras', 'tensorflow', 'jax', 'torch')]"
        " + [m for m in sys.modules if m.startswith('state_of_sparsity.')"
        " and not m.startswith('state_of_sparsity.runtime')"
        " and m != 'state_of_sparsity.atomic'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
