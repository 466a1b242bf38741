"""LiteRT files with sparse tensors, where those are smaller."""

import warnings
from collections.abc import Callable


def smallest(convert: Callable[[list], bytes], quantize: str | None) -> bytes:
    """The contents of a file, dense or with sparse tensors.

    LiteRT can encode a tensor by the places of what is not zero, which is smaller from
    some sparsity on, and larger below. So both are made, and the smaller one is kept.

    Args:
      convert: function of TensorFlow's list of optimizations that gives the contents.
      quantize: "int8", or None for weights as they are.
    """
    import tensorflow as tf  # It has the converter; imported by whoever converts.

    if quantize == "int8":
        # The runtime refuses operations on tensors that are quantized and sparse.
        return convert([tf.lite.Optimize.DEFAULT])
    dense = convert([])
    encoded = convert([tf.lite.Optimize.EXPERIMENTAL_SPARSITY])
    return encoded if len(encoded) < len(dense) and _runs(encoded) else dense


def _runs(contents):
    """Whether the runtime takes a file: it may lack an operation on sparse tensors."""
    import tensorflow as tf

    with warnings.catch_warnings():
        # TensorFlow's copy of the runtime tells of the package that it is in, too.
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(model_content=contents)
    try:
        interpreter.allocate_tensors()
    except RuntimeError:
        return False
    return True
