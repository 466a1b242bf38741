"""Kinds of linear maps: what differs between the layers of the family."""

from state_of_sparsity.engines.linear_maps import finished, positions_axes
from state_of_sparsity.engines.tf_keras.backend import (
    NOT_CAUSAL,
    keras,
    pad_causally,
    tf,
    view_of,
    without_autograph,
)
from state_of_sparsity.engines.tf_keras.layers.reparameterized import Reparameterized
from state_of_sparsity.engines.tf_keras.layers.tied_embedding import (
    check_ids,
    transposed_map,
)


class Linear(Reparameterized):
    """A layer that multiplies its inputs with a kernel, adds a bias and activates."""

    # The map is Keras's own, which needs no AutoGraph.
    @without_autograph
    def call(self, inputs, training=None):
        self.check_inputs(inputs)
        inputs = tf.cast(inputs, self.compute_dtype)
        return tf.ragged.map_flat_values(self._outputs, inputs, training)

    def _outputs(self, inputs, training):
        outputs = self.in_phase(
            training,
            lambda use: self._drawn(inputs, use),
            lambda: self._deployed(inputs),
        )
        return finished(self, outputs)

    def _drawn(self, inputs, use):
        axes = positions_axes(self, inputs.shape.rank)
        for weight, linear_map in self.linear_maps().items():
            inputs = self.training_output(weight, linear_map, inputs, use, axes)
        return inputs

    def _deployed(self, inputs):
        for weight, linear_map in self.linear_maps().items():
            inputs = linear_map(inputs, self.deployed_weight(weight))
        return inputs

    def linear_maps(self):
        """By weight, the linear maps that the layer applies one after the other.

        Each is a function of inputs and of the weight to use, without bias and
        activation.
        """
        (weight,) = self.sparse_weights
        return {weight: self.linear_map}

    def linear_map(self, inputs, kernel):
        """The Keras layer with another kernel, without bias and activation.

        It computes in the dtype of its inputs.
        """
        (weight,) = self.sparse_weights
        linear = self._bare(inputs, {weight: kernel})
        # Past the family, to the Keras layer.
        return super(Reparameterized, linear).call(inputs)

    def _bare(self, inputs, values):
        """The layer without bias and activation, with other values of attributes.

        Tensors among them are cast to the dtype of the inputs, in which it computes.
        """
        # What is a variable is read here: in an attribute it would be the layer's own.
        cast = {
            name: tf.cast(tf.convert_to_tensor(value), inputs.dtype)
            if tf.is_tensor(value)
            else value
            for name, value in values.items()
        }
        nothing = {"use_bias": False, "bias": None, "activation": None}
        return view_of(self, {**nothing, **cast}, inputs.dtype)


class Depthwise(Linear):
    """A linear map whose kernel goes by another name."""

    sparse_weights = {"depthwise_kernel": ""}  # noqa: RUF012


class Separable(Linear):
    """A depthwise convolution, then one of size one: each is a linear map of its own.

    Raises:
      TypeError: when a class is derived from a kind of layer that computes in another
        way, since its maps are not known.
    """

    sparse_weights = {  # noqa: RUF012
        "depthwise_kernel": "depthwise_",
        "pointwise_kernel": "pointwise_",
    }

    def __init_subclass__(cls, **kwargs):
        plain = (x for x in cls.__mro__ if issubclass(x, keras.layers.Layer))
        plain_class = next(
            (x for x in plain if not issubclass(x, Reparameterized)), None
        )
        known = (keras.layers.SeparableConv1D.call, keras.layers.SeparableConv2D.call)
        if plain_class is not None and plain_class.call not in known:
            raise TypeError(
                "Separable is for SeparableConv1D and SeparableConv2D, and for what "
                "derives from them without a `call` of its own: the two maps are "
                f"theirs. Received: {plain_class.__name__}"
            )
        super().__init_subclass__(**kwargs)

    def linear_maps(self):
        return {
            "depthwise_kernel": self._depthwise_map,
            "pointwise_kernel": self._pointwise_map,
        }

    def _depthwise_map(self, inputs, kernel):
        values = {"depthwise_kernel": kernel}
        if self.padding == "causal":
            inputs = pad_causally(self, inputs)
            values |= NOT_CAUSAL
        kinds = {1: keras.layers.DepthwiseConv1D, 2: keras.layers.DepthwiseConv2D}
        return kinds[self.rank].call(self._bare(inputs, values), inputs)

    def _pointwise_map(self, inputs, kernel):
        ones = (1,) * self.rank
        values = {
            "kernel": kernel,
            "kernel_size": ones,
            "strides": ones,
            "dilation_rate": ones,
            **NOT_CAUSAL,
        }
        return keras.layers.Conv2D.call(self._bare(inputs, values), inputs)

    def linear_map(self, inputs, kernel):
        raise NotImplementedError("There are two maps: see `linear_maps`.")


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

        def rows(table):
            return tf.nn.embedding_lookup(table, ids)

        outputs = self.in_phase(
            training,
            lambda use: self.training_rows("embeddings", rows, use),
            lambda: self.deployed_rows("embeddings", rows),
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
            lambda use: self.training_output("embeddings", transposed_map, inputs, use),
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
            return [self.training_weight(name, use) for name in self.sparse_weights]

        def deployed():
            return [self.deployed_weight(name) for name in self.sparse_weights]

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
