"""Greedy and beam search, with the whole loop in the graph.

A search takes a function that gives the logits of the next tokens, and state of any
structure that the function hands on from step to step, such as cached keys and
values. Hypotheses start from id 0, of which the embedding is zero and which is never
emitted, and end with id 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.translation.special_ids import END_ID, PADDING_ID
from state_of_sparsity.models.translation.transformer import Transformer

# `step_logits(ids, step, cache)`: from the last token of each row (rows,), the number
# of tokens before the next and the cache to the logits of the next tokens (rows,
# vocabulary) and the next cache. The first dimension of all tensors in the cache is
# that of the rows.
StepLogits = Callable[[tf.Tensor, tf.Tensor, Any], tuple[tf.Tensor, Any]]


class Decoded(NamedTuple):
    """The sentences found.

    Attributes:
      ids: int32 (batch, longest), ended by id 1 and padded with 0. A sentence that
        did not come to its end within its max_length has no id 1.
      scores: float32 (batch,).
    """

    ids: tf.Tensor
    scores: tf.Tensor


def greedy(model: Transformer, source: tf.Tensor, max_length: int) -> Decoded:
    """Translates by the most likely token at each step.

    For speed, call it from within a `tf.function`, and with a stripped model.

    Args:
      model: a `Transformer`.
      source: ids (batch, S), padded with 0.
      max_length: most tokens of a translation, with its end.

    Returns:
      Translations, scored by their log-probability.
    """
    encoded = model.encode(source)
    sentences = tf.shape(source)[0]
    return search_greedily(
        lambda ids, step, cache: model.decode_step(ids, step, encoded, cache),
        model.start_cache(sentences, max_length),
        sentences,
        max_length,
    )


def beam_search(
    model: Transformer,
    source: tf.Tensor,
    max_length: int | tf.Tensor,
    beams: int = 4,
    alpha: float = 0.6,
) -> Decoded:
    """Translates by beam search; see `search_beams`.

    For speed, call it from within a `tf.function`, and with a stripped model.

    Args:
      model: a `Transformer`.
      source: ids (batch, S), padded with 0.
      max_length: most tokens of a translation, with its end: one number, or int32
        (batch,), one for each.
      beams: how many hypotheses are followed at a time.
      alpha: of the length penalty.

    Returns:
      Translations, scored by their log-probability over the length penalty.
    """
    encoded = model.encode(source)
    sentences = tf.shape(source)[0]
    return search_beams(
        lambda ids, step, cache: model.decode_step(ids, step, encoded, cache),
        model.start_cache(sentences * beams, _longest(max_length)),
        sentences,
        max_length,
        beams,
        alpha,
    )


def length_penalty(length, alpha: float) -> tf.Tensor:
    """`((5 + length) / 6) ** alpha` (Wu et al. 2016, arXiv 1609.08144).

    The length of a hypothesis counts its end symbol.
    """
    return ((5 + tf.cast(length, tf.float32)) / 6) ** alpha


class _Greedy(NamedTuple):
    step: tf.Tensor
    last: tf.Tensor
    ids: tf.Tensor
    scores: tf.Tensor
    ended: tf.Tensor
    cache: Any


def search_greedily(
    step_logits: StepLogits, cache, sentences, max_length: int
) -> Decoded:
    """Takes the most likely token at each step, until all sentences have ended.

    Args:
      step_logits: gives logits; its rows are sentences.
      cache: for the first step.
      sentences: how many there are.
      max_length: most tokens of a sentence, with its end.

    Returns:
      Sentences, scored by their log-probability.
    """
    _check(max_length=max_length)

    def unfinished(state):
        return (state.step < max_length) & ~tf.reduce_all(state.ended)

    def advance(state):
        logits, cache = step_logits(state.last, state.step, state.cache)
        log_probabilities = _log_probabilities(logits)
        best = tf.argmax(log_probabilities, axis=-1, output_type=tf.int32)
        gain = tf.reduce_max(log_probabilities, axis=-1)
        best = tf.where(state.ended, PADDING_ID, best)
        return _Greedy(
            state.step + 1,
            best,
            _written(state.ids, best, state.step),
            state.scores + tf.where(state.ended, 0.0, gain),
            state.ended | (best == END_ID),
            cache,
        )

    start = _Greedy(
        step=tf.constant(0),
        last=tf.fill([sentences], PADDING_ID),
        ids=tf.fill([sentences, max_length], PADDING_ID),
        scores=tf.zeros([sentences]),
        ended=tf.fill([sentences], False),
        cache=cache,
    )
    final = _loop(unfinished, advance, start)
    return Decoded(final.ids, final.scores)


class _Beams(NamedTuple):
    """Live hypotheses have not ended; of the ended ones, only the best can win.

    Attributes:
      step: how many tokens the live hypotheses have.
      ids: (batch, beams, max_length), of the live hypotheses, the best one first.
      log_probabilities: (batch, beams), likewise.
      ended_ids: (batch, max_length).
      ended_scores: (batch,), -inf as long as there are none.
      cache: of the live hypotheses.
    """

    step: tf.Tensor
    ids: tf.Tensor
    log_probabilities: tf.Tensor
    ended_ids: tf.Tensor
    ended_scores: tf.Tensor
    cache: Any


def search_beams(
    step_logits: StepLogits,
    cache,
    sentences,
    max_length: int | tf.Tensor,
    beams: int = 4,
    alpha: float = 0.6,
) -> Decoded:
    """Follows the most likely hypotheses of each sentence.

    At each step, a hypothesis that ends among the `2 * beams` best continuations
    competes for the result by its score, `log p / length_penalty(length, alpha)`; the
    `beams` best continuations that do not end live on. So it is in Tensor2Tensor, with
    which the published translations were made.

    A sentence is done when its best ended hypothesis scores at least as much as any
    live one still can: a log-probability only falls, and the penalty divides it by the
    most at `max_length`, so the bound is `log p / length_penalty(max_length, alpha)`
    of the best live hypothesis. So stopping never changes the result. The loop stops
    when all sentences are done. Only for a sentence without any ended hypothesis, the
    best one of `max_length` tokens without an end is returned.

    Args:
      step_logits: gives logits; its rows are hypotheses, `beams` next to each other
        for each sentence.
      cache: for the first step.
      sentences: how many there are.
      max_length: most tokens of a hypothesis, with its end: one number, or int32
        (sentences,), one for each.
      beams: how many live hypotheses a sentence has.
      alpha: of the length penalty; not negative.

    Returns:
      The best hypothesis of each sentence, and its score.
    """
    _check(max_length=max_length, beams=beams)
    if not alpha >= 0:
        raise ValueError(f"alpha must not be negative. Received: {alpha}")

    limits = tf.broadcast_to(max_length, [sentences])

    def unfinished(state):
        best = tf.reduce_max(state.log_probabilities, axis=1)
        bound = best / length_penalty(limits, alpha)
        return tf.reduce_any((state.step < limits) & (state.ended_scores < bound))

    def advance(state):
        last = tf.reshape(state.ids[:, :, tf.maximum(state.step - 1, 0)], [-1])
        logits, cache = step_logits(last, state.step, state.cache)
        grown = _grown(state, _log_probabilities(logits), cache, alpha)
        return _kept_at_limits(state, grown, limits)

    start = _start(cache, sentences, _longest(max_length), beams)
    final = _loop(unfinished, advance, start)
    has_ended = final.ended_scores > -float("inf")
    best = final.log_probabilities[:, 0] / length_penalty(limits, alpha)
    return Decoded(
        tf.where(has_ended[:, tf.newaxis], final.ended_ids, final.ids[:, 0]),
        tf.where(has_ended, final.ended_scores, best),
    )


def _longest(max_length):
    """The most tokens of any sentence; 1 if there are none."""
    if isinstance(max_length, int):
        return max_length
    return tf.maximum(tf.reduce_max(max_length), 1)


def _kept_at_limits(state, grown, limits):
    """The state after a step that sentences at their limits have not taken.

    Args:
      state: `_Beams` before the step.
      grown: `_Beams` after it.
      limits: (batch,), most tokens of each sentence.
    """
    goes_on = state.step < limits

    def kept(new, old):
        places = tf.reshape(goes_on, [-1] + [1] * (new.shape.rank - 1))
        return tf.where(places, new, old)

    names = ("ids", "log_probabilities", "ended_ids", "ended_scores")
    return grown._replace(
        **{name: kept(getattr(grown, name), getattr(state, name)) for name in names}
    )


def _start(cache, sentences, max_length, beams):
    # All hypotheses of a sentence are the same yet: only the first one counts.
    only_first = tf.constant([0.0] + [-float("inf")] * (beams - 1))
    return _Beams(
        step=tf.constant(0),
        ids=tf.fill([sentences, beams, max_length], PADDING_ID),
        log_probabilities=tf.tile(only_first[tf.newaxis], [sentences, 1]),
        ended_ids=tf.fill([sentences, max_length], PADDING_ID),
        ended_scores=tf.fill([sentences], -float("inf")),
        cache=cache,
    )


def _grown(state, log_probabilities, cache, alpha):
    """The state after one more token.

    Args:
      state: `_Beams`.
      log_probabilities: (batch * beams, vocabulary), of the next tokens.
      cache: of the live hypotheses before they are selected.
      alpha: of the length penalty.
    """
    beams, vocabulary = state.ids.shape[1], tf.shape(log_probabilities)[-1]
    gains = tf.reshape(log_probabilities, (-1, beams, vocabulary))
    totals = state.log_probabilities[:, :, tf.newaxis] + gains
    totals = tf.reshape(totals, (-1, beams * vocabulary))
    # At most one continuation of each hypothesis ends, so enough are left to live.
    totals, places = tf.math.top_k(totals, 2 * beams)
    parents, tokens = places // vocabulary, places % vocabulary
    ends = tokens == END_ID
    ids = _written(tf.gather(state.ids, parents, batch_dims=1), tokens, state.step)

    ended_ids, ended_scores = _best_ended(state, ids, totals, ends, alpha)
    live, chosen = tf.math.top_k(tf.where(ends, -float("inf"), totals), beams)
    parents = tf.gather(parents, chosen, batch_dims=1)
    rows = parents + beams * tf.range(tf.shape(parents)[0])[:, tf.newaxis]
    rows = tf.reshape(rows, [-1])
    return _Beams(
        state.step + 1,
        tf.gather(ids, chosen, batch_dims=1),
        live,
        ended_ids,
        ended_scores,
        tf.nest.map_structure(lambda x: tf.gather(x, rows), cache),
    )


def _best_ended(state, ids, totals, ends, alpha):
    """The best of the hypotheses that end now and those that have ended before."""
    totals = tf.where(ends, totals, -float("inf"))
    scores = tf.reduce_max(totals, 1) / length_penalty(state.step + 1, alpha)
    best = tf.gather(ids, tf.argmax(totals, 1), batch_dims=1)
    better = scores > state.ended_scores
    return (
        tf.where(better[:, tf.newaxis], best, state.ended_ids),
        tf.where(better, scores, state.ended_scores),
    )


def _log_probabilities(logits):
    """In float32, and with none for padding, which is never emitted."""
    log_probabilities = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    is_padding = tf.range(tf.shape(logits)[-1]) == PADDING_ID
    return tf.where(is_padding, -float("inf"), log_probabilities)


def _written(ids, tokens, step):
    """Ids (..., max_length) with tokens (...) at one place."""
    here = tf.range(tf.shape(ids)[-1]) == step
    return tf.where(here, tokens[..., tf.newaxis], ids)


def _loop(unfinished, advance, start):
    """`tf.while_loop` over one structure, of which no shape may change."""

    def body(state):
        after = advance(state)
        return (
            tf.nest.map_structure(
                lambda new, old: tf.ensure_shape(new, old.shape), after, state
            ),
        )

    return tf.while_loop(unfinished, body, (start,))[0]


def _check(**counts):
    for name, count in counts.items():
        if isinstance(count, int) and count < 1:
            raise ValueError(f"{name} must be at least 1. Received: {count}")
