"""ONNX operators that go over steps: recurrent layers, loops and branches."""

import numpy as np
import onnx
import tensorflow as tf

from state_of_sparsity.runtime.onnx_to_tf.call import operator

# TensorFlow's loops need a number, and no loop ends by this one.
_FOREVER = np.int64(2**62)


def _lstm_step(x, state, weights, call):
    del call
    hidden, cell = state
    kernel, recurrent, bias = weights
    gates = x @ tf.transpose(kernel) + hidden @ tf.transpose(recurrent) + bias
    enter, leave, forget, new = tf.split(gates, 4, -1)
    cell = tf.sigmoid(forget) * cell + tf.sigmoid(enter) * tf.tanh(new)
    return tf.sigmoid(leave) * tf.tanh(cell), cell


def _gru_step(x, state, weights, call):
    (hidden,) = state
    kernel, recurrent, bias = weights
    own_bias, hidden_bias = bias
    of_x = tf.split(x @ tf.transpose(kernel) + own_bias, 3, -1)
    recurrent = tf.split(tf.transpose(recurrent), 3, -1)
    hidden_bias = tf.split(hidden_bias, 3, -1)
    update, reset = (
        tf.sigmoid(of_x[i] + hidden @ recurrent[i] + hidden_bias[i]) for i in (0, 1)
    )
    if call.get("linear_before_reset", 0):
        new = reset * (hidden @ recurrent[2] + hidden_bias[2])
    else:
        new = (reset * hidden) @ recurrent[2] + hidden_bias[2]
    return ((1 - update) * tf.tanh(of_x[2] + new) + update * hidden,)


def _rnn_step(x, state, weights, call):
    del call
    (hidden,) = state
    kernel, recurrent, bias = weights
    return (
        tf.tanh(x @ tf.transpose(kernel) + hidden @ tf.transpose(recurrent) + bias),
    )


# The step, how many gates there are and states, and the activations that it has.
_KINDS = {
    "LSTM": (_lstm_step, 4, 2, ["Sigmoid", "Tanh", "Tanh"]),
    "GRU": (_gru_step, 3, 1, ["Sigmoid", "Tanh"]),
    "RNN": (_rnn_step, 1, 1, ["Tanh"]),
}


@operator("LSTM", "GRU", "RNN")
def _recurrent(call, x, kernel, recurrent, bias=None, lengths=None, *states):
    step, gates, count, activations = _KINDS[call.node.op_type]
    directions, size = kernel.shape[0], call.get("hidden_size")
    own = [name.decode() for name in call.get("activations") or []]
    if own not in ([], activations * directions):
        call.refuse(f"activations={own}")
    if call.get("clip") or call.get("layout", 0) or lengths is not None:
        call.refuse("clip, layout or lengths of sequences")
    if any(state is not None for state in states[count:]):
        call.refuse("peepholes")
    if bias is None:
        bias = tf.zeros([directions, 2 * gates * size], x.dtype)
    results = []
    for direction in range(directions):
        is_backward = direction == 1 or call.get("direction") == "reverse"
        weights = (
            kernel[direction],
            recurrent[direction],
            _bias(call, bias[direction]),
        )
        zeros = tf.zeros([tf.shape(x)[1], size], x.dtype)
        given = [states[i] if i < len(states) else None for i in range(count)]
        start = tuple(zeros if s is None else s[direction] for s in given)
        steps = tf.scan(
            lambda state, inputs, w=weights: step(inputs, state, w, call),
            tf.reverse(x, [0]) if is_backward else x,
            start,
        )
        last = [each[-1] for each in steps]
        outputs = tf.reverse(steps[0], [0]) if is_backward else steps[0]
        results.append((outputs, *last))
    outputs, *last = zip(*results, strict=True)
    return (tf.stack(outputs, 1), *(tf.stack(each) for each in last))


def _bias(call, both):
    """The biases of inputs and of states: apart where the layer needs them so."""
    own, of_state = tf.split(both, 2, -1)
    return (own, of_state) if call.node.op_type == "GRU" else own + of_state


@operator("Loop")
def _loop(call, trips, condition, *carried):
    body, count = call.get("body"), len(carried)
    trips = tf.constant(_FOREVER) if trips is None else tf.reshape(trips, ())
    condition = tf.constant(True) if condition is None else tf.reshape(condition, ())
    carried = tuple(map(tf.convert_to_tensor, carried))
    names = [each.name for each in body.input]
    stacked = body.output[1 + count :]
    arrays = tuple(
        tf.TensorArray(_dtype(each), 0, dynamic_size=True, infer_shape=False)
        for each in stacked
    )

    def step(index, going, values, arrays):
        known = dict(zip(names, (index, going, *values), strict=True))
        going, *values = call.body(body, known)
        values, rows = values[:count], values[count:]
        arrays = tuple(
            array.write(tf.cast(index, tf.int32), row)
            for array, row in zip(arrays, rows, strict=True)
        )
        return index + 1, tf.reshape(going, ()), tuple(values), arrays

    _, _, carried, arrays = tf.while_loop(
        lambda index, going, values, arrays: going & (index < trips),
        step,
        (tf.constant(0, tf.int64), condition, carried, arrays),
        shape_invariants=(
            tf.TensorShape([]),
            tf.TensorShape([]),
            tuple(tf.TensorShape([None] * len(value.shape)) for value in carried),
            tuple(tf.TensorShape(None) for _ in arrays),
        ),
    )
    return (*carried, *(array.stack() for array in arrays))


def _dtype(value):
    return tf.as_dtype(
        onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    )


@operator("If")
def _if(call, condition):
    def branch(name):
        return lambda: tuple(call.body(call.get(name), {}))

    return tf.cond(
        tf.reshape(condition, ()), branch("then_branch"), branch("else_branch")
    )
