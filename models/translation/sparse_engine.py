"""A Transformer for decoding, whose products skip the zeros of their weights.

The encoder and a step of the decoder are computed by `state_of_sparsity.runtime`; the
search around them, and the strings, are those of every other Transformer.
"""

import os
import pathlib

from state_of_sparsity.atomic import replacing
from state_of_sparsity.engines import formats
from state_of_sparsity.engines.formats.onnx_graph import graph_of_function
from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.translation.transformer import Encoded, Transformer

# The files of an export; whoever finds the second one finds both.
ENCODER, DECODER = "encoder.sparse", "decoder.sparse"


def write_sparse(
    model: Transformer, path: str | os.PathLike, values: str | None = None
) -> None:
    """Writes the encoder and a step of the decoder as sparse files, both or none.

    `sos.runtime.load` reads them. The encoder takes the tokens of sentences. The step
    takes the last token of each hypothesis, the number of the step, what the encoder
    gave, and the caches of attention, and gives logits and the caches of the next step.

    Args:
      model: a stripped `Transformer`.
      path: of the decoder, which ends in `DECODER`; the encoder goes beside it.
      values: as of `sos.export` with format="sparse".

    Raises:
      ImportError, RuntimeError: as `SparseTransformer`.
      ValueError: for weights that cannot be rounded to such values.
    """
    formats.check("sparse", "tf_keras")
    encoder, decoder = _graphs(model, _specs_of(model))
    with replacing(pathlib.Path(path)) as new:
        _write(encoder, new.with_name(ENCODER), values)
        _write(decoder, new, values)


class SparseTransformer:
    """What a search needs of a Transformer, computed by two sessions.

    Call it eagerly: TensorFlow's graphs cannot hold the sessions.

    Args:
      model: a stripped `Transformer`.
      threads: that compute at most; None for as many as there are cores.
      folder: of the files that `write_sparse` made of the model, which are loaded, and
        beside which choices of the runtime are kept; None to make the sessions of the
        model as it is.

    Raises:
      FileNotFoundError: if there are no such files.
      ImportError: if a package is missing, naming it.
      RuntimeError: if the model cannot be expressed in ONNX.
      ValueError: for files of another model, or threads that the machine does not have.
    """

    def __init__(
        self,
        model: Transformer,
        threads: int | None = None,
        folder: str | os.PathLike | None = None,
    ):
        formats.check("sparse", "tf_keras")
        formats.check_packages("sparse", "numba", "onnxruntime")
        # Which needs packages that those who train do without.
        from state_of_sparsity.runtime.session import load

        self.vocabulary_size = model.vocabulary_size
        self.start_cache = model.start_cache
        spec = _specs_of(model)
        self._encoded, self._cache = spec["encoded"], spec["cache"]
        if folder is None:
            parts = _graphs(model, spec)
        else:
            parts = [pathlib.Path(folder, name) for name in (ENCODER, DECODER)]
        self._encoder, self._decoder = (load(part, threads) for part in parts)
        if folder is not None:
            _check(self._encoder, [spec["source"]], ENCODER)
            flat = tf.nest.flatten((self._encoded, self._cache))
            _check(self._decoder, [spec["ids"], spec["step"], *flat], DECODER)
            self._check_vocabulary()

    def encode(self, source):
        """As `Transformer.encode`."""
        outputs = _run(self._encoder, [source])
        return tf.nest.pack_sequence_as(self._encoded, outputs)

    def decode_step(self, ids, step, encoded: Encoded, cache):
        """As `Transformer.decode_step`."""
        flat = [*tf.nest.flatten(encoded), *tf.nest.flatten(cache)]
        logits, *flat = _run(self._decoder, [ids, step, *flat])
        return logits, tf.nest.pack_sequence_as(self._cache, flat)

    def _check_vocabulary(self):
        size = self._decoder.outputs[0].shape[-1]
        if size != self.vocabulary_size:
            raise ValueError(
                f"{DECODER} is of another model: it knows {size} subwords, the model "
                f"{self.vocabulary_size}. Export the model again."
            )


def _graphs(model, spec):
    """The encoder and a step of the decoder as `onnx.ModelProto`."""
    count = len(tf.nest.flatten(spec["encoded"]))

    def encode(source):
        return tf.nest.flatten(model.encode(source))

    def decode_step(ids, step, *flat):
        encoded = tf.nest.pack_sequence_as(spec["encoded"], flat[:count])
        cache = tf.nest.pack_sequence_as(spec["cache"], flat[count:])
        logits, cache = model.decode_step(ids, step, encoded, cache)
        return [logits, *tf.nest.flatten(cache)]

    flat = tf.nest.flatten((spec["encoded"], spec["cache"]))
    steps = [spec["ids"], spec["step"], *flat]
    return [
        graph_of_function(tf.function(call), signature, model.name)
        for call, signature in ((encode, [spec["source"]]), (decode_step, steps))
    ]


def _write(proto, path, values):
    from state_of_sparsity.runtime import files

    files.write(proto, path, values or "float32", signed_zeros=False)


def _check(session, specs, name):
    """Raises ValueError unless a session takes what a model of the specs would give."""
    found = [_sizes(value.shape) for value in session.inputs]
    expected = [_sizes(spec.shape) for spec in specs]
    if found != expected:
        raise ValueError(
            f"{name} is of another model: it takes inputs of shapes {found}, and not "
            f"{expected}. Export the model again."
        )


def _sizes(shape):
    return [size if isinstance(size, int) else None for size in shape]


def _specs_of(model):
    """Specifications of what goes in and out, with names that ONNX keeps."""
    source = tf.TensorSpec([None, None], tf.int32, "source")
    encoded = tf.function(model.encode).get_concrete_function(source)
    cache = tf.function(lambda: model.start_cache(1, 1)).get_concrete_function()

    def named(name, structure, other_axis=0):
        """With names, and of any batch and any length along one other axis."""
        flat = [
            tf.TensorSpec(
                [None if n in (0, other_axis) else d for n, d in enumerate(spec.shape)],
                spec.dtype,
                f"{name}_{number}",
            )
            for number, spec in enumerate(tf.nest.flatten(structure))
        ]
        return tf.nest.pack_sequence_as(structure, flat)

    return {
        "source": source,
        "ids": tf.TensorSpec([None], tf.int32, "ids"),
        "step": tf.TensorSpec([], tf.int32, "step"),
        "encoded": named("encoded", encoded.structured_outputs),
        "cache": named("cache", cache.structured_outputs, other_axis=2),
    }


def _run(session, tensors):
    outputs = session.run([tensor.numpy() for tensor in tensors])
    return [tf.constant(output) for output in outputs.values()]
