"""ONNX graphs in TensorFlow: what ONNX Runtime computes, to five digits."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from state_of_sparsity import runtime

tf = pytest.importorskip("tensorflow")

from state_of_sparsity.runtime.onnx_to_tf import graph as translation  # noqa: E402

FLOAT = TensorProto.FLOAT


class Case:
    """An operator on inputs and constants.

    Attributes:
      name: of the operator.
      inputs: shapes, or arrays that are constants.
      attributes: of the node.
      outputs: how many.
    """

    def __init__(self, name, *inputs, outputs=1, **attributes):
        self.name, self.inputs, self.outputs = name, inputs, outputs
        self.attributes = attributes

    def __repr__(self):
        told = [f"{key}={value}" for key, value in self.attributes.items()]
        return "-".join([self.name, *told]).replace(" ", "")

    def model(self, opset=20):
        names = [
            f"i{k}" if value is not None else "" for k, value in enumerate(self.inputs)
        ]
        node = helper.make_node(
            self.name, names, [f"o{k}" for k in range(self.outputs)], **self.attributes
        )
        given = [
            (n, s) for n, s in zip(names, self.inputs, strict=True) if s is not None
        ]
        graph = helper.make_graph(
            [node],
            "graph",
            [
                # Only the first length is not known.
                helper.make_tensor_value_info(n, FLOAT, [None, *s[1:]])
                for n, s in given
                if isinstance(s, tuple)
            ],
            [helper.make_empty_tensor_value_info(name) for name in node.output],
            [
                numpy_helper.from_array(s, n)
                for n, s in given
                if not isinstance(s, tuple)
            ],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9
        )
        return onnx.shape_inference.infer_shapes(model)

    def feeds(self, rng):
        shapes = [shape for shape in self.inputs if isinstance(shape, tuple)]
        return [rng.normal(size=shape).astype("float32") for shape in shapes]


def ints(*values):
    return np.array(values, np.int64)


def floats(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype("float32")


A = (3, 4, 5)
IMAGE = (2, 6, 9, 8)
UNARY = (
    *("Abs", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu"),
    *("HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "LogSoftmax", "Mish"),
    *("Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin"),
    *("Softmax", "Softplus", "Softsign", "Tanh"),
)
BINARY = ["Add", "Div", "Max", "Min", "Mul", "Sub", "PRelu", "Sum"]
CASES = [
    *(Case(name, A) for name in UNARY),
    *(Case(name, A, (4, 1) if name != "PRelu" else floats(4, 1)) for name in BINARY),
    *(Case(name, A, ints(0, 2)) for name in ("ReduceMax", "ReduceMin", "ReduceSum")),
    Case("ReduceMean", A, ints(1), keepdims=0),
    Case("ReduceProd", A, ints(-1)),
    Case("ReduceSumSquare", A),
    Case("ReduceL2", A, ints(1, 2)),
    Case("ReduceSum", A, ints(), noop_with_empty_axes=1),
    Case("Pow", A, ints(2)),
    Case("Gelu", A, approximate="tanh"),
    Case("Elu", A, alpha=0.3),
    Case("Celu", A, alpha=0.3),
    Case("Softmax", A, axis=1),
    Case("Clip", A, np.float32(-0.5), np.float32(0.5)),
    Case("Clip", A, None, np.float32(0.5)),
    Case("Dropout", A),
    Case("MatMul", A, floats(5, 6)),
    Case("Gemm", (3, 4), floats(6, 4), floats(6), transB=1, alpha=0.5, beta=2.0),
    Case("Gemm", (4, 3), floats(4, 6), transA=1),
    Case("Einsum", A, floats(5, 2, 3), equation="abc,cde->abde"),
    Case("Concat", A, (3, 2, 5), axis=1),
    Case("Transpose", A, perm=[2, 0, 1]),
    Case("Transpose", A),
    Case("Reshape", A, ints(0, -1)),
    Case("Reshape", A, ints(-1, 10)),
    Case("Flatten", A, axis=2),
    Case("Flatten", A),
    Case("Expand", (3, 1, 5), ints(4, 1)),
    Case("Tile", A, ints(1, 2, 3)),
    Case("Squeeze", (3, 1, 5), ints(1)),
    Case("Unsqueeze", A, ints(0, -1)),
    Case("Split", A, axis=1, num_outputs=2, outputs=2),
    Case("Split", A, axis=2, num_outputs=3, outputs=3),
    Case("Split", A, ints(1, 3), axis=1, outputs=2),
    Case("Slice", A, ints(1, -3), ints(2**62, -1), ints(1, 2)),
    Case("Slice", A, ints(-1), ints(-(2**62)), ints(2), ints(-2)),
    Case("Gather", A, ints(0, -1), axis=1),
    Case("Gather", A, np.array(-1), axis=2),
    Case("GatherElements", A, np.array([[[0], [-1]]] * 3), axis=2),
    Case("GatherND", A, ints(0, 1)[None]),
    Case("ArgMax", A, axis=1, keepdims=0),
    Case("ArgMin", A, axis=-1),
    Case("CumSum", A, np.array(1), reverse=1),
    Case("Trilu", A, np.array(1), upper=0),
    Case("Trilu", A),
    Case("ReverseSequence", A, ints(1, 4, 3), time_axis=1, batch_axis=0),
    Case("ReverseSequence", A, ints(1, 2, 3, 0), time_axis=0, batch_axis=1),
    Case("LayerNormalization", A, floats(5), floats(5), epsilon=1e-3),
    Case("LayerNormalization", A, floats(4, 5), axis=1),
    Case("Shape", A),
    Case("Cast", A, to=TensorProto.INT32),
    Case("Pad", A, ints(0, 1, 0, 0, 0, 2), np.float32(3)),
    Case("Pad", A, ints(1, 2), None, ints(2)),
    Case("Pad", A, ints(0, -1, 0, 0, 0, -2)),
    Case("Pad", A, ints(0, 2, 1, 0, 1, 1), mode="reflect"),
    Case("Resize", IMAGE, None, np.array([1, 1, 2, 3], "f4"), mode="nearest"),
    Case("BatchNormalization", IMAGE, *(np.abs(floats(6)) + k for k in range(4))),
    Case("InstanceNormalization", IMAGE, floats(6), floats(6)),
    Case("GlobalAveragePool", IMAGE),
    Case("GlobalMaxPool", IMAGE),
    Case("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    Case("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    Case("MaxPool", (2, 6, 9), kernel_shape=[2], dilations=[3]),
    Case("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 0]),
    Case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
    Case(
        "AveragePool", IMAGE, kernel_shape=[4, 4], strides=[3, 3], auto_pad="SAME_LOWER"
    ),
    Case("Conv", IMAGE, floats(4, 6, 3, 2), floats(4)),
    Case("Conv", IMAGE, floats(4, 6, 3, 3), strides=[2, 2], pads=[1, 1, 0, 2]),
    Case("Conv", IMAGE, floats(4, 6, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    Case("Conv", IMAGE, floats(4, 6, 3, 3), dilations=[2, 2]),
    Case("Conv", IMAGE, floats(4, 6, 3, 3), dilations=[2, 2], strides=[2, 1]),
    Case("Conv", IMAGE, floats(9, 2, 3, 3), group=3, auto_pad="VALID"),
    Case("Conv", IMAGE, floats(12, 1, 3, 3), floats(12), group=6, strides=[2, 2]),
    Case("Conv", IMAGE, floats(6, 1, 3, 3), group=6, strides=[2, 1]),
    Case("Conv", IMAGE, floats(6, 1, 3, 3), group=6, dilations=[2, 2]),
    Case("Conv", (2, 6, 9), floats(4, 6, 3), floats(4), strides=[2]),
    Case("Conv", (2, 6, 9), floats(6, 1, 3), group=6, strides=[2]),
    Case("Conv", (2, 4, 5, 6, 7), floats(3, 4, 2, 2, 2), pads=[1, 0, 0, 0, 1, 0]),
    Case("ConvTranspose", IMAGE, floats(6, 4, 3, 3), floats(4), strides=[2, 2]),
    Case(
        "ConvTranspose",
        IMAGE,
        floats(6, 4, 3, 3),
        strides=[3, 2],
        pads=[1, 0, 1, 1],
        output_padding=[2, 1],
    ),
    Case("ConvTranspose", IMAGE, floats(6, 2, 2, 2), group=3, strides=[2, 2]),
    Case("ConvTranspose", (2, 6, 9), floats(6, 4, 3), strides=[2], pads=[0, 1]),
    *(
        Case(
            name,
            (5, 2, 3),
            floats(directions, gates * 4, 3),
            floats(directions, gates * 4, 4),
            floats(directions, 2 * gates * 4),
            hidden_size=4,
            direction=direction,
            outputs=outputs,
            **more,
        )
        for name, gates, outputs in (("LSTM", 4, 3), ("GRU", 3, 2), ("RNN", 1, 2))
        for direction, directions in (
            ("forward", 1),
            ("reverse", 1),
            ("bidirectional", 2),
        )
        for more in ([{}, {"linear_before_reset": 1}] if name == "GRU" else [{}])
    ),
    Case(
        "LSTM",
        (5, 2, 3),
        floats(1, 16, 3),
        floats(1, 16, 4),
        None,
        None,
        floats(1, 2, 4),
        floats(1, 2, 4),
        hidden_size=4,
    ),
]


def is_quick(case):
    """Of recurrent layers, both directions tell of each."""
    return case.attributes.get("direction") in (None, "bidirectional")


@pytest.mark.parametrize(
    "case",
    [c if is_quick(c) else pytest.param(c, marks=pytest.mark.slow) for c in CASES],
    ids=repr,
)
def test_an_operator_gives_what_onnx_runtime_gives(rng, case):
    model, feeds = case.model(), case.feeds(rng)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [place.name for place in session.get_inputs()]
    expected = session.run(None, dict(zip(names, feeds, strict=True)))
    found = translation.Module(model).serve(*map(tf.constant, feeds))
    found = list(found.values()) if isinstance(found, dict) else [found]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == tf.as_dtype(theirs.dtype)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_every_operator_of_the_table_is_checked():
    by_itself = {"Constant", "ConstantOfShape", "If", "Loop", "Range"}
    of_booleans = {"And", "Equal", "Greater", "GreaterOrEqual", "IsNaN", "Less"}
    of_booleans |= {"LessOrEqual", "Not", "Or", "Where", "Xor", "Log", "Sqrt"}
    checked = {case.name for case in CASES} | by_itself | of_booleans
    assert set(translation.OPERATORS) == checked


TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
{name} (float[n, 4] x) => ({outputs}) {{
{lines}
}}
"""
TEXTS = {
    "comparisons": (
        "float[n, 4] y",
        """
        zero = Constant <value_float = 0.0> ()
        a = Less (x, zero)
        b = GreaterOrEqual (x, zero)
        c = Greater (x, zero)
        d = LessOrEqual (x, zero)
        e = Equal (x, x)
        f = And (a, e)
        g = Or (f, c)
        h = Xor (g, d)
        i = Not (h)
        k = IsNaN (x)
        l = Or (i, k)
        m = Abs (x)
        o = Sqrt (m)
        p = Log (o)
        y = Where (l, p, x)
        """,
    ),
    "shapes": (
        "float[n, m] y, float[a, b] z, float[c, d] w",
        """
        one = Constant <value_ints = [1]> ()
        shape = Shape (x)
        n = Slice (shape, {0}, {1})
        m = Slice (shape, one, {2})
        swapped = Concat <axis = 0> (m, n)
        y = Reshape (x, swapped)
        twos = ConstantOfShape <value = float[1] {2.0}> (shape)
        z = Add (x, twos)
        last = Sub (n, one)
        w = Slice (x, last, n)
        """,
    ),
    "loop": (
        "float[n, 4] y, float[k, n, 4] rows",
        """
        trips = Constant <value_int = 5> ()
        go = Constant <value_int = 1> ()
        yes = Cast <to = 9> (go)
        limit = Constant <value_float = 1000.0> ()
        y, rows = Loop (trips, yes, x) <body = step (int64 i, bool c, float[n, 4] s)
            => (bool again, float[n, 4] next, float[n, 4] row) {
            f = Cast <to = 1> (i)
            t = Add (s, f)
            next = Add (t, x)
            row = Identity (t)
            largest = ReduceMax <keepdims = 0> (next)
            again = Less (largest, limit)
        }>
        """,
    ),
    "branch": (
        "float[n, 4] y",
        """
        zero = Constant <value_float = 0.0> ()
        sum = ReduceSum <keepdims = 0> (x)
        up = Greater (sum, zero)
        y = If (up) <
            then_branch = up_branch () => (float[n, 4] a) { a = Neg (x) },
            else_branch = down () => (float[n, 4] b) { b = Exp (x) }
        >
        """,
    ),
    "range": (
        "float[n, 4] y",
        """
        start = Constant <value_float = 0.0> ()
        end = Constant <value_float = 4.0> ()
        step = Constant <value_float = 1.0> ()
        r = Range (start, end, step)
        y = Mul (x, r)
        """,
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_graph_gives_what_onnx_runtime_gives(rng, name):
    outputs, lines = TEXTS[name]
    for literal in ("{0}", "{1}", "{2}"):
        # The text of ONNX has no constants in the place of inputs.
        constant = f"c{literal[1]}"
        if literal in lines:
            declared = f"{constant} = Constant <value_ints = [{literal[1]}]> ()\n"
            lines = declared + lines.replace(literal, constant)
    model = onnx.parser.parse_model(
        TEXT.format(name=name, outputs=outputs, lines=lines)
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    serve = translation.Module(model).serve
    for size in (1, 3):
        x = rng.normal(size=(size, 4)).astype("float32")
        found = serve(x)
        found = list(found.values()) if isinstance(found, dict) else [found]
        for ours, theirs in zip(found, session.run(None, {"x": x}), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def convolutions(rng):
    """Three layers, the names of whose tensors TensorFlow does not take."""
    kernel = rng.normal(size=(16, 3, 3, 3)).astype("float32")
    kernel[rng.random(kernel.shape) < 0.9] = 0
    logits = rng.normal(size=(16, 10)).astype("float32")
    nodes = [
        helper.make_node("Conv", ["in:0", "k"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ReduceMean", ["r"], ["p"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["p", "w"], ["out/1"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("in:0", FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("out/1", FLOAT, ["n", 10])],
        [numpy_helper.from_array(kernel, "k"), numpy_helper.from_array(logits, "w")],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


def test_a_sparse_file_becomes_a_saved_model_that_loads_by_itself(rng, tmp_path):
    model = convolutions(rng)
    runtime.write(model, tmp_path / "model.sparse")
    runtime.to_saved_model(tmp_path / "model.sparse", tmp_path / "new" / "saved")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["saved"]
    loaded = tf.saved_model.load(tmp_path / "new" / "saved")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for size in (1, 4):
        x = rng.normal(size=(size, 3, 8, 8)).astype("float32")
        (expected,) = session.run(None, {"in:0": x})
        np.testing.assert_allclose(loaded.serve(x), expected, atol=1e-5)
        (found,) = loaded.signatures["serving_default"](in_0=tf.constant(x)).values()
        np.testing.assert_allclose(found, expected, atol=1e-5)
    # The weights are variables: a graph with them inside could hold 2 GB only.
    assert {tuple(v.shape) for v in loaded._weights.values()} == {(16, 3, 3, 3)}


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            Case("Hardmax", A),
            "Operators without a counterpart here: Hardmax. Write ONNX",
        ),
        (
            Case("MaxPool", IMAGE, kernel_shape=[2, 2], ceil_mode=1),
            "MaxPool with ceil_m",
        ),
        (Case("Pad", A, ints(*[1] * 6), mode="edge"), "Pad with mode='edge'"),
    ],
    ids=repr,
)
def test_what_has_no_counterpart_is_refused(tmp_path, case, message):
    runtime.write(case.model(), tmp_path / "model.sparse")
    with pytest.raises(ValueError, match=rf"model\.sparse' as SavedModel: {message}"):
        runtime.to_saved_model(tmp_path / "model.sparse", tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["model.sparse"]


def test_operators_of_long_ago_are_refused(tmp_path):
    runtime.write(Case("Relu", A).model(opset=11), tmp_path / "model.sparse")
    with pytest.raises(ValueError, match="operators of version 11: convert it to 13"):
        runtime.to_saved_model(tmp_path / "model.sparse", tmp_path / "saved")


def test_what_is_there_is_not_replaced(rng, tmp_path):
    runtime.write(convolutions(rng), tmp_path / "model.sparse")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "other").touch()
    with pytest.raises(FileExistsError, match="saved exists: choose another path"):
        runtime.to_saved_model(tmp_path / "model.sparse", tmp_path / "saved")


def test_without_tensorflow_one_learns_what_to_install(tmp_path):
    code = (
        "import importlib.util as u; found = u.find_spec; "
        "u.find_spec = lambda n: None if n == 'tensorflow' else found(n); "
        "from state_of_sparsity import runtime; "
        f"runtime.to_saved_model('model.sparse', {str(tmp_path / 'saved')!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: To write a SavedModel, run `pip install ten" in done.stderr
