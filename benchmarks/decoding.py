"""Greedy decoding with cached keys and values, over recomputing the whole prefix.

Both decode the same sentences in one process, in turns, so that whatever else the
machine does hits both. The end symbol is made impossible, so that every sentence has
the full length. Checks that both emit the same tokens, and prints the medians and their
ratio.

Recomputing is what one does with nothing but the model's `call`, which runs the
encoder at every step, too. With `--source_length=1`, that hardly counts.
"""

import figures
import numpy as np
import turns
from absl import app, flags

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.translation.decoding import search_greedily
from state_of_sparsity.models.translation.special_ids import END_ID, UNKNOWN_ID
from state_of_sparsity.models.translation.transformer import Transformer

_LAYERS = flags.DEFINE_integer("layers", 3, "Of the encoder and of the decoder.")
_WIDTH = flags.DEFINE_integer("width", 256, "Of the Transformer.")
_VOCABULARY = flags.DEFINE_integer("vocabulary_size", 8000, "Number of ids.")
_SOURCE_LENGTH = flags.DEFINE_integer("source_length", 60, "Tokens of a source.")
_LENGTH = flags.DEFINE_integer("length", 60, "Tokens that are decoded.")
_BATCH = flags.DEFINE_integer("batch_size", 8, "Sentences.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "How often the two take turns.")


def without_end(logits):
    """Logits for which no sentence ends."""
    is_end = tf.range(tf.shape(logits)[-1]) == END_ID
    return tf.where(is_end, logits.dtype.min, logits)


def cached(model, source):
    """Greedy search that runs the decoder on one token at each step."""
    encoded = model.encode(source)

    def step_logits(ids, step, cache):
        logits, cache = model.decode_step(ids, step, encoded, cache)
        return without_end(logits), cache

    cache = model.start_cache(_BATCH.value, _LENGTH.value)
    return search_greedily(step_logits, cache, _BATCH.value, _LENGTH.value)


def recomputed(model, source):
    """Greedy search that runs the model on the whole prefix at each step."""

    def step_logits(ids, step, prefix):
        prefix = tf.where(tf.range(_LENGTH.value + 1) == step, ids[:, None], prefix)
        # The model shifts its target to the right, so the last token does not count.
        logits = model(packed(source, prefix[:, 1 : step + 2]), training=False)
        return without_end(logits[:, -1]), prefix

    prefix = tf.zeros((_BATCH.value, _LENGTH.value + 1), tf.int32)
    return search_greedily(step_logits, prefix, _BATCH.value, _LENGTH.value)


def packed(source, target):
    """The inputs of a Transformer, for a sentence without padding in each row."""
    inputs = {}
    for name, ids in (("source", source), ("target", target)):
        positions = tf.range(tf.shape(ids)[1])[tf.newaxis]
        inputs[name] = ids
        inputs[f"{name}_segments"] = tf.ones_like(ids)
        inputs[f"{name}_positions"] = tf.broadcast_to(positions, tf.shape(ids))
    return inputs


def main(argv):
    del argv
    tf.random.set_seed(0)
    model = Transformer(
        _VOCABULARY.value, _LAYERS.value, _WIDTH.value, 4 * _WIDTH.value, heads=8
    )
    model.build()
    shape = (_BATCH.value, _SOURCE_LENGTH.value)
    source = tf.random.uniform(shape, UNKNOWN_ID, _VOCABULARY.value, tf.int32)
    ways = {
        "cached": tf.function(lambda: cached(model, source)),
        "recomputed": tf.function(lambda: recomputed(model, source)),
    }
    # The first call traces.
    found = {name: decode().ids.numpy() for name, decode in ways.items()}
    np.testing.assert_array_equal(found["cached"], found["recomputed"])
    figures.publish(figures.of_times(turns.take_turns(ways, _ROUNDS.value)))


if __name__ == "__main__":
    app.run(main)
