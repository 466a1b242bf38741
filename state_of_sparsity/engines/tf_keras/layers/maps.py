"""Kinds of linear maps: what differs between the layers of the family."""

from state_of_sparsity.engines.base import DENSE_EQUATION, sequence_axes
from state_of_sparsity.engines.tf_keras.backend import (
    keras,
    tf,
    view_of,
    without_autograph,
)
from state_of_sparsity.engines.tf_keras.layers.reparameterized import Reparameterized
from state_of_sparsity.engines.tf_keras.layers.tied_embedding import (
    check_ids,
    transposed_map,
)
from state_of_sparsity.engines.tf_keras.noise import Noise


class Linear(Reparameterized):
    """A layer that multiplies its inputs with a kernel, adds a bias and activates."""

    # The map is Keras's own, which needs no AutoGraph.
    @without_autograph
    def call(self, inputs, training=None):
        self.check_inputs(inputs)
        inputs = tf.cast(inputs, self.compute_dtype)
        return tf.ragged.map_flat_values(self._outputs, inputs, training)

    def _outputs(self, inputs, training):
        (weight,) = self.sparse_weights
        axes = self._sequence_axes(inputs.shape.rank)
        outputs = self.in_phase(
            training,
            lambda use: self.technique.training_output(
                self.linear_map,
                inputs,
                *self.parameters(weight),
                Noise(self, weight, use, axes),
            ),
            lambda: self.linear_map(inputs, self.deployed_weight(weight)),
        )
        return self._finish(outputs)

    def linear_map(self, inputs, kernel):
        """The Keras layer with another kernel, without bias and activation.

        It computes in the dtype of its inputs.
        """
        (weight,) = self.sparse_weights
        linear = view_of(
            self,
            {
                weight: tf.cast(kernel, inputs.dtype),
                "use_bias": False,
                "bias": None,
                "activation": None,
                "_compute_dtype_object": inputs.dtype,
            },
        )
        # Past the family, to the Keras layer.
        return super(Reparameterized, linear).call(inputs)

    def _sequence_axes(self, rank):
        """Axes of the outputs along which a dense map is applied to a sequence."""
        if isinstance(self, keras.layers.Dense):
            return sequence_axes(DENSE_EQUATION, rank)
        if isinstance(self, keras.layers.EinsumDense):
            return sequence_axes(self.equation, rank)
        return ()

    def _finish(self, outputs):
        if getattr(self, "bias", None) is not None:
            bias = tf.cast(self.bias, outputs.dtype)
            if getattr(self, "data_format", None) == "channels_first":
                bias = tf.reshape(bias, (-1, *[1] * self.rank))
            outputs += bias
        return outputs if self.activation is None else self.activation(outputs)


class Depthwise(Linear):
    """A linear map whose kernel goes by another name."""

    sparse_weights = {"depthwise_kernel": ""}  # noqa: RUF012


class Lookup(Reparameterized):
    """A layer that looks up rows of a table; noise is drawn per row looked up."""

    sparse_weights = {"embeddings": ""}  # noqa: RUF012

    @without_autograph
    def call(self, inputs, training=None):
        if isinstance(inputs, tf.SparseTensor):
            raise TypeError(
                f"Layer {self.name!r} ({type(self).__name__}) looks up dense or ragged "
                "ids: pass tf.sparse.to_dense(ids). Received: a SparseTensor"
            )
        outputs = tf.ragged.map_flat_values(self._outputs, inputs, training)
        return tf.sparse.from_dense(outputs) if self.sparse else outputs

    def _outputs(self, inputs, training):
        ids = tf.cast(inputs, tf.int32)
        rows = [
            tf.nn.embedding_lookup(table, ids)
            for table in self.parameters("embeddings")
        ]
        outputs = self.in_phase(
            training,
            lambda use: self.technique.training_weight(
                *rows, Noise(self, "embeddings", use)
            ),
            lambda: self.technique.deployed_weight(*rows),
        )
        return tf.cast(outputs, self.compute_dtype)


class TiedLookup(Lookup):
    """A table that is looked up, and whose transpose is a linear map."""

    @without_autograph
    def call(self, inputs, transposed=False, training=None):
        if not transposed:
            check_ids(self, inputs)
            return super().call(inputs, training)
        self.check_inputs(inputs)
        inputs = tf.cast(inputs, self.compute_dtype)
        return self.in_phase(
            training,
            lambda use: self.technique.training_output(
                transposed_map,
                inputs,
                *self.parameters("embeddings"),
                Noise(self, "embeddings", use),
            ),
            lambda: transposed_map(inputs, self.deployed_weight("embeddings")),
        )


class Recurrent(Reparameterized):
    """A recurrent layer: weights are drawn once for all steps and the whole batch."""

    sparse_weights = {  # noqa: RUF012
        "cell.kernel": "",
        "cell.recurrent_kernel": "recurrent_",
    }

    @without_autograph
    def call(self, inputs, mask=None, training=None, initial_state=None):
        # With initial states that are Keras tensors, Keras passes a list of them all.
        self.check_inputs(tf.nest.flatten(inputs)[0])

        def drawn(use):
            return [
                self.technique.training_weight(
                    *self.parameters(weight), Noise(self, weight, use)
                )
                for weight in self.sparse_weights
            ]

        def deployed():
            return [self.deployed_weight(weight) for weight in self.sparse_weights]

        values = {
            weight.removeprefix("cell."): tf.cast(value, self.compute_dtype)
            for weight, value in zip(
                self.sparse_weights,
                self.in_phase(training, drawn, deployed),
                strict=True,
            )
        }
        layer = view_of(self, {"cell": view_of(self.cell, values)})
        # Past the family, to the Keras layer.
        return super(Reparameterized, layer).call(
            inputs, mask=mask, training=training, initial_state=initial_state
        )
