"""A Transformer for decoding, whose products skip the zeros of their weights.

The encoder and a step of the decoder are computed by `state_of_sparsity.runtime`; the
search around them, and the strings, are those of every other Transformer.
"""

import pathlib
import tempfile

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.engines.tf_keras.sparse_file import check_packages, to_onnx
from state_of_sparsity.models.translation.transformer import Encoded, Transformer


class SparseTransformer:
    """What a search needs of a Transformer, computed by two sessions.

    Call it eagerly: TensorFlow's graphs cannot hold the sessions.

    Args:
      model: a stripped `Transformer`.
      threads: that compute; None for as many as there are cores.
      values: as of `sos.export` with format="sparse", to round weights as files do.

    Attributes:
      file_size: with `values`, bytes of the files of both sessions; otherwise 0.

    Raises:
      ImportError: if a package is missing, naming it.
      RuntimeError: if the model cannot be expressed in ONNX.
      ValueError: for other values, or threads that the machine does not have.
    """

    def __init__(
        self, model: Transformer, threads: int | None = None, values: str | None = None
    ):
        check_packages("numba", "onnxruntime")
        # Which needs packages that those who train do without.
        from state_of_sparsity.runtime.session import load

        self.vocabulary_size = model.vocabulary_size
        self.start_cache = model.start_cache
        spec = _specs_of(model)
        self._encoded, self._cache = spec["encoded"], spec["cache"]

        def encode(source):
            return tf.nest.flatten(model.encode(source))

        def decode_step(ids, step, *flat):
            encoded, cache = self._divided(flat)
            logits, cache = model.decode_step(ids, step, encoded, cache)
            return [logits, *tf.nest.flatten(cache)]

        flat = [*tf.nest.flatten(self._encoded), *tf.nest.flatten(self._cache)]
        steps = [spec["ids"], spec["step"], *flat]
        functions = ((encode, [spec["source"]]), (decode_step, steps))
        models = [
            to_onnx(tf.function(call), signature, model.name)
            for call, signature in functions
        ]
        self.file_size = 0
        if values is not None:
            models, sizes = zip(*(_stored(m, values) for m in models), strict=True)
            self.file_size = sum(sizes)
        self._encoder, self._decoder = (load(model, threads) for model in models)

    def encode(self, source):
        """As `Transformer.encode`."""
        outputs = _run(self._encoder, [source])
        return tf.nest.pack_sequence_as(self._encoded, outputs)

    def decode_step(self, ids, step, encoded: Encoded, cache):
        """As `Transformer.decode_step`."""
        flat = [*tf.nest.flatten(encoded), *tf.nest.flatten(cache)]
        logits, *flat = _run(self._decoder, [ids, step, *flat])
        return logits, tf.nest.pack_sequence_as(self._cache, flat)

    def _divided(self, flat):
        count = len(tf.nest.flatten(self._encoded))
        return (
            tf.nest.pack_sequence_as(self._encoded, flat[:count]),
            tf.nest.pack_sequence_as(self._cache, flat[count:]),
        )


def _stored(proto, values):
    """A model as a file gives it back, and the bytes of the file."""
    from state_of_sparsity.runtime import files

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.sparse")
        files.write(proto, path, values, signed_zeros=False)
        return files.read(path), path.stat().st_size


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
