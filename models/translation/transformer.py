"""The Transformer for translation (Vaswani et al. 2017, arXiv 1706.03762).

The variant with layer normalization before each block and after each stack, without
biases in the attention projections, and with one embedding for source, target and
softmax. Id 0 is padding, whose embedding is zero; from such a vector of zeros a
translation starts, as in Tensor2Tensor. Id 1 ends a sentence.

Training takes rows into which several sentences are packed; decoding takes a sentence
per row and goes token by token, with the keys and values of earlier tokens cached.
"""

import math
from typing import NamedTuple

from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.layers.tf_keras import TiedEmbedding
from state_of_sparsity.models.translation.special_ids import PADDING_ID

INPUT_NAMES = (
    "source",
    "source_segments",
    "source_positions",
    "target",
    "target_segments",
    "target_positions",
)
LAYER_NORM_EPSILON = 1e-6
LONGEST_TIMESCALE = 1e4
# Scores are in float32, so that this is finite under every dtype policy.
MASKED_SCORE = -1e9

# Of one attention: both (batch, heads, length, width / heads).
KeysValues = tuple[tf.Tensor, tf.Tensor]

_register = keras.utils.register_keras_serializable("state_of_sparsity")


class Encoded(NamedTuple):
    """What decoding needs of the source.

    Attributes:
      keys_values: of the cross-attention of each decoder layer.
      visible: boolean (batch, 1, 1, source length), false at padding.
    """

    keys_values: tuple[KeysValues, ...]
    visible: tf.Tensor


@_register
class Transformer(keras.Model):
    """Encoder and decoder; maps a source and a target to logits of the target.

    Inputs are a dictionary of int32 tensors: `source`, `source_segments` and
    `source_positions` of shape (batch, S), `target`, `target_segments` and
    `target_positions` of shape (batch, T). Segments number the sentences that are
    packed into a row from 1 on, 0 is padding; positions count from 0 within each
    sentence. The output is (batch, T, vocabulary_size) in float32: the logits of each
    target token, given the tokens of its sentence before it and the source sentence of
    the same segment. The first token of a row is given a vector of zeros, that of a
    later sentence in the row the end symbol of the one before.

    Example:
      >>> model = Transformer(vocabulary_size=1000, layers=2, width=64, heads=4)
      >>> model.build()
      >>> model.count_params()

    Args:
      vocabulary_size: number of ids.
      layers: of the encoder, and as many of the decoder.
      width: of embeddings and residual connections.
      feed_forward: width inside of the feed-forward blocks.
      heads: of each attention.
      dropout: rate at the sums of embeddings and positions, the outputs of blocks,
        the attention weights and the ReLU activations.
      **kwargs: of a Keras model.

    Raises:
      ValueError: for sizes that are not positive, a width that the heads do not
        divide into equal parts or that is odd, or a rate outside of [0, 1).
    """

    def __init__(
        self,
        vocabulary_size: int,
        layers: int = 6,
        width: int = 512,
        feed_forward: int = 2048,
        heads: int = 8,
        dropout: float = 0.1,
        **kwargs,
    ):
        sizes = {
            "vocabulary_size": vocabulary_size,
            "layers": layers,
            "width": width,
            "feed_forward": feed_forward,
            "heads": heads,
        }
        _check(sizes, dropout)
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.width = width
        self.feed_forward = feed_forward
        self.heads = heads
        self.dropout_rate = dropout
        self.embedding = TiedEmbedding(
            vocabulary_size,
            width,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=width**-0.5),
            name="embedding",
        )
        self.dropout = _dropout(dropout)
        block = (width, feed_forward, heads, dropout)
        numbers = range(1, layers + 1)
        self.encoder = [EncoderLayer(*block, name=f"encoder_{i}") for i in numbers]
        self.encoder_norm = _layer_norm("encoder_norm")
        self.decoder = [DecoderLayer(*block, name=f"decoder_{i}") for i in numbers]
        self.decoder_norm = _layer_norm("decoder_norm")

    def build(self, input_shape=None):
        """Makes the weights, as the first call does, too."""
        del input_shape
        self.built = True
        # Keras notes names and shapes for a SavedModel: lengths may be any there.
        self({n: keras.Input((None,), dtype="int32", name=n) for n in INPUT_NAMES})

    def call(self, inputs, training=None):
        segments = inputs["source_segments"]
        x = self._embed(inputs["source"], inputs["source_positions"], training)
        memory = self._encode(x, same_segment(segments, segments), training)

        target_segments = inputs["target_segments"]
        ids = shifted_right(inputs["target"])
        x = self._embed(ids, inputs["target_positions"], training)
        visible = same_segment(target_segments, target_segments) & causal(ids)
        memory_visible = same_segment(target_segments, segments)
        for layer in self.decoder:
            x = layer(x, memory, visible, memory_visible, training=training)
        return self._logits(x)

    def encode(self, source: tf.Tensor) -> Encoded:
        """Runs the encoder on sentences (batch, S), padded with 0, one per row."""
        segments = tf.cast(source != PADDING_ID, tf.int32)
        x = self._embed(source, tf.range(tf.shape(source)[1])[tf.newaxis], False)
        memory = self._encode(x, same_segment(segments, segments), False)
        return Encoded(
            tuple(layer.cross_attention.keys_values(memory) for layer in self.decoder),
            visible=(segments != 0)[:, tf.newaxis, tf.newaxis],
        )

    def start_cache(self, rows, max_length) -> tuple[KeysValues, ...]:
        """An empty cache for `decode_step`.

        Args:
          rows: of the batch that is decoded: sentences times hypotheses.
          max_length: most tokens of a row.

        Returns:
          For each decoder layer, keys and values of its self-attention, each
          (rows, heads, max_length, width / heads).
        """
        shape = (rows, self.heads, max_length, self.width // self.heads)
        zeros = tf.zeros(shape, self.compute_dtype)
        return tuple((zeros, zeros) for _ in self.decoder)

    def decode_step(self, ids, step, encoded: Encoded, cache):
        """The logits of the next token of each row.

        Layers with a learned sparsity compute their deployed weights at each step:
        decode with a model that `sos.strip` returned.

        Args:
          ids: (rows,), the last token of each row, 0 at step 0. There may be several
            rows, next to each other, for each source sentence.
          step: scalar, how many tokens each row has before the next.
          encoded: from `encode`.
          cache: from `start_cache` or the step before.

        Returns:
          Float32 logits (rows, vocabulary_size), and the cache for the next step.
        """
        x = self._embed(ids[:, tf.newaxis], tf.reshape(step, (1, 1)), False)
        written = tf.range(tf.shape(cache[0][0])[2])
        here, visible = written == step, written <= step
        new_cache = []
        for layer, memory, old in zip(
            self.decoder, encoded.keys_values, cache, strict=True
        ):
            x, new = layer.step(x, memory, encoded.visible, old, here, visible)
            new_cache.append(new)
        return self._logits(x)[:, 0], tuple(new_cache)

    def _embed(self, ids, positions, training):
        x = self.embedding(ids)
        is_token = tf.cast(ids != PADDING_ID, x.dtype)[..., tf.newaxis]
        x = x * is_token * self.width**0.5
        x += tf.cast(sinusoids(positions, self.width), x.dtype)
        return self.dropout(x, training=training)

    def _encode(self, x, visible, training):
        for layer in self.encoder:
            x = layer(x, visible, training=training)
        return self.encoder_norm(x)

    def _logits(self, x):
        logits = self.embedding(self.decoder_norm(x), transposed=True)
        return tf.cast(logits, tf.float32)

    def get_build_config(self):
        # Without one, Keras would not build the model that it loads.
        return {"input_shape": (None, None)}

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "layers": len(self.encoder),
            "width": self.width,
            "feed_forward": self.feed_forward,
            "heads": self.heads,
            "dropout": self.dropout_rate,
        }


class EncoderLayer(keras.layers.Layer):
    """`x + attention(norm(x))`, then `x + feed_forward(norm(x))`: (batch, S, width)."""

    def __init__(self, width, feed_forward, heads, dropout, **kwargs):
        super().__init__(**kwargs)
        self.attention_norm = _layer_norm("attention_norm")
        self.attention = Attention(width, heads, dropout, name="attention")
        self.feed_forward_norm = _layer_norm("feed_forward_norm")
        self.feed_forward = FeedForward(
            width, feed_forward, dropout, name="feed_forward"
        )
        self.dropout = _dropout(dropout)

    def call(self, x, visible, training=None):
        normed = self.attention_norm(x)
        attended = self.attention(normed, normed, visible, training=training)
        x += self.dropout(attended, training=training)
        transformed = self.feed_forward(self.feed_forward_norm(x), training=training)
        return x + self.dropout(transformed, training=training)


class DecoderLayer(keras.layers.Layer):
    """As the encoder layer, with cross-attention in between: (batch, T, width)."""

    def __init__(self, width, feed_forward, heads, dropout, **kwargs):
        super().__init__(**kwargs)
        self.self_attention_norm = _layer_norm("self_attention_norm")
        self.self_attention = Attention(width, heads, dropout, name="self_attention")
        self.cross_attention_norm = _layer_norm("cross_attention_norm")
        self.cross_attention = Attention(width, heads, dropout, name="cross_attention")
        self.feed_forward_norm = _layer_norm("feed_forward_norm")
        self.feed_forward = FeedForward(
            width, feed_forward, dropout, name="feed_forward"
        )
        self.dropout = _dropout(dropout)

    def call(self, x, memory, visible, memory_visible, training=None):
        normed = self.self_attention_norm(x)
        attended = self.self_attention(normed, normed, visible, training=training)
        x += self.dropout(attended, training=training)
        attended = self.cross_attention(
            self.cross_attention_norm(x), memory, memory_visible, training=training
        )
        x += self.dropout(attended, training=training)
        transformed = self.feed_forward(self.feed_forward_norm(x), training=training)
        return x + self.dropout(transformed, training=training)

    def step(self, x, memory, memory_visible, cache, here, visible):
        """`call` for one token per row, in inference.

        Args:
          x: (rows, 1, width), with as many rows for each sentence of the memory.
          memory: keys and values of the cross-attention.
          memory_visible: (batch, 1, 1, S).
          cache: keys and values of the self-attention.
          here: boolean (max_length,), true where the token belongs in the cache.
          visible: likewise, true for it and the tokens before.

        Returns:
          What takes the place of x, and the cache with the token.
        """
        normed = self.self_attention_norm(x)
        cache = tuple(
            tf.where(here[:, tf.newaxis], new, old)
            for new, old in zip(
                self.self_attention.keys_values(normed), cache, strict=True
            )
        )
        x += self.self_attention.attend(normed, *cache, visible)
        # The rows of a sentence are queries to the same keys: no need to repeat those.
        queries = tf.reshape(
            self.cross_attention_norm(x), (tf.shape(memory[0])[0], -1, x.shape[-1])
        )
        attended = self.cross_attention.attend(queries, *memory, memory_visible)
        x += tf.reshape(attended, tf.shape(x))
        return x + self.feed_forward(self.feed_forward_norm(x), training=False), cache


class Attention(keras.layers.Layer):
    """Multi-head attention without biases.

    `concat_h(softmax(Q_h K_h^T / sqrt(width / heads)) V_h) W_o` with `Q = x W_q`,
    `K = memory W_k` and `V = memory W_v`, of which head h has its share of columns.

    Args:
      width: of inputs and outputs.
      heads: number of heads.
      dropout: rate at the attention weights.
      **kwargs: of a Keras layer.
    """

    def __init__(self, width, heads, dropout, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads
        self.query = keras.layers.Dense(width, use_bias=False, name="query")
        self.key = keras.layers.Dense(width, use_bias=False, name="key")
        self.value = keras.layers.Dense(width, use_bias=False, name="value")
        self.projection = keras.layers.Dense(width, use_bias=False, name="projection")
        self.dropout = _dropout(dropout)

    def call(self, x, memory, visible, training=None):
        return self.attend(x, *self.keys_values(memory), visible, training)

    def activation_products(self, input_shapes, output_shape):
        """Multiply-adds of queries with keys, and of weights with values.

        For `sos.count_flops`: the products with kernels are those of the layers within.
        """
        memory = input_shapes[1]
        return 2 * math.prod(output_shape) * memory[1]

    def keys_values(self, memory) -> KeysValues:
        """What there is to attend to in a memory (batch, S, width)."""
        return self._split(self.key(memory)), self._split(self.value(memory))

    def attend(self, x, keys, values, visible, training=False):
        """The attention of x to keys and values.

        Args:
          x: (batch, T, width).
          keys: (batch, heads, S, width / heads).
          values: likewise.
          visible: boolean, broadcast to (batch, heads, T, S).
          training: whether to drop attention weights.

        Returns:
          (batch, T, width)
        """
        queries = self._split(self.query(x)) * keys.shape[-1] ** -0.5
        scores = tf.cast(tf.matmul(queries, keys, transpose_b=True), tf.float32)
        weights = tf.nn.softmax(tf.where(visible, scores, MASKED_SCORE))
        weights = self.dropout(tf.cast(weights, values.dtype), training=training)
        return self.projection(_joined(tf.matmul(weights, values)))

    def _split(self, x):
        """(batch, length, width) to (batch, heads, length, width / heads)."""
        shape = (tf.shape(x)[0], -1, self.heads, x.shape[-1] // self.heads)
        return tf.transpose(tf.reshape(x, shape), (0, 2, 1, 3))


class FeedForward(keras.layers.Layer):
    """`relu(x W_1 + b_1) W_2 + b_2` at each position, with dropout at the ReLU."""

    def __init__(self, width, feed_forward, dropout, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(feed_forward, activation="relu", name="hidden")
        self.dropout = _dropout(dropout)
        self.projection = keras.layers.Dense(width, name="projection")

    def call(self, x, training=None):
        return self.projection(self.dropout(self.hidden(x), training=training))


def sinusoids(positions: tf.Tensor, width: int) -> tf.Tensor:
    """Encodes positions (...) as float32 vectors (..., width).

    `sin(p / t_i)` in the first half, `cos(p / t_i)` in the second, with timescales t
    from 1 to 10000 in geometric progression.
    """
    half = width // 2
    exponents = tf.range(half, dtype=tf.float32) / max(half - 1, 1)
    frequencies = LONGEST_TIMESCALE**-exponents
    angles = tf.cast(positions, tf.float32)[..., tf.newaxis] * frequencies
    return tf.concat([tf.sin(angles), tf.cos(angles)], axis=-1)


def shifted_right(target: tf.Tensor) -> tf.Tensor:
    """The token before each one in its row, 0 for the first: (batch, T)."""
    return tf.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=PADDING_ID)


def same_segment(queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Which keys a query sees, by segments (batch, T) and (batch, S).

    Returns:
      Boolean (batch, 1, T, S).
    """
    queries, keys = (
        queries[:, tf.newaxis, :, tf.newaxis],
        keys[:, tf.newaxis, tf.newaxis],
    )
    return (queries == keys) & (keys != 0)


def causal(ids: tf.Tensor) -> tf.Tensor:
    """Boolean (T, T) for ids (batch, T): which tokens are not after which."""
    places = tf.range(tf.shape(ids)[1])
    return places[:, tf.newaxis] >= places


def _joined(x):
    """(batch, heads, length, width / heads) to (batch, length, width)."""
    x = tf.transpose(x, (0, 2, 1, 3))
    return tf.reshape(x, (tf.shape(x)[0], -1, x.shape[2] * x.shape[3]))


def _layer_norm(name):
    return keras.layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON, name=name)


def _dropout(rate):
    """A layer with a generator of its own, whose state a checkpoint can save."""
    return keras.layers.Dropout(rate, rng_type="stateful", name="dropout")


def _check(sizes, dropout):
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1. Received: {value}")
    width, heads = sizes["width"], sizes["heads"]
    if width % heads or width % 2:
        raise ValueError(
            "width must be even and a multiple of heads. Received: "
            f"width={width}, heads={heads}"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1). Received: {dropout}")
