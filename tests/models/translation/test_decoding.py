"""Greedy and beam search, against exhaustive search and uncached recomputation."""

import functools
import itertools

import numpy as np
import pytest

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.translation.decoding import (
    beam_search,
    greedy,
    search_beams,
    search_greedily,
)
from state_of_sparsity.models.translation.special_ids import END_ID
from state_of_sparsity.models.translation.transformer import INPUT_NAMES, Transformer

VOCABULARY = 12
MAX_LENGTH = 9


class Language:
    """Random logits that depend on the sentence and on all of its prefix.

    The cache holds the number of the sentence and the tokens read so far.

    Attributes:
      logits: (sentences, prefixes, vocabulary).
      steps: how often logits were asked for.
    """

    def __init__(self, rng, sentences=1, vocabulary=4, max_length=4):
        self.vocabulary, self.max_length = vocabulary, max_length
        prefixes = vocabulary**max_length
        logits = rng.normal(size=(sentences, prefixes, vocabulary), scale=2.0)
        # So that not most of the sentences end at once.
        logits[:, :, END_ID] -= 2.0
        self.logits = logits.astype("float32")
        self.steps = tf.Variable(0)

    def cache(self, beams=1):
        sentences = len(self.logits)
        return {
            "sentence": tf.repeat(tf.range(sentences), beams),
            "read": tf.zeros((sentences * beams, self.max_length), tf.int32),
        }

    def step_logits(self, ids, step, cache):
        self.steps.assign_add(1)
        here = tf.range(self.max_length) == step
        read = tf.where(here, ids[:, None], cache["read"])
        # Only a prefix that was selected along with its beam has the right number.
        places = self.vocabulary ** tf.range(self.max_length)
        prefix = tf.reduce_sum(read * places, axis=1)
        logits = tf.gather_nd(
            self.logits, tf.stack([cache["sentence"], prefix], axis=1)
        )
        return logits, {"sentence": cache["sentence"], "read": read}

    def log_probability(self, sentence, tokens):
        """In float64, of a prefix or a whole sentence."""
        total = 0.0
        for step, token in enumerate(tokens):
            read = (0, *tokens[:step])
            prefix = sum(t * self.vocabulary**i for i, t in enumerate(read))
            logits = self.logits[sentence, prefix].astype("float64")
            total += logits[token] - np.log(np.exp(logits).sum())
        return total

    def greedy(self):
        return search_greedily(
            self.step_logits, self.cache(), len(self.logits), self.max_length
        )

    def beams(self, beams, alpha):
        return search_beams(
            self.step_logits,
            self.cache(beams),
            len(self.logits),
            self.max_length,
            beams,
            alpha,
        )


class Fixed(Language):
    """A language whose tokens do not depend on the prefix."""

    def __init__(self, probabilities, max_length):
        rng = np.random.default_rng(0)
        super().__init__(rng, len(probabilities), len(probabilities[0]), 1)
        with np.errstate(divide="ignore"):
            self.logits[:] = np.log(probabilities)[:, None, :]
        self.max_length = max_length

    def step_logits(self, ids, step, cache):
        self.steps.assign_add(1)
        return tf.gather(self.logits[:, 0], cache["sentence"]), cache


def penalty(length, alpha):
    return ((5 + length) / 6) ** alpha


def exhaustive(language, sentence, alpha):
    """The best ended sentence, and its score, among all of them."""
    others = range(2, language.vocabulary)
    candidates = [
        (*tokens, END_ID)
        for length in range(language.max_length)
        for tokens in itertools.product(others, repeat=length)
    ]
    scores = [
        language.log_probability(sentence, c) / penalty(len(c), alpha)
        for c in candidates
    ]
    best = int(np.argmax(scores))
    return candidates[best], scores[best]


def padded(tokens, length):
    return [*tokens, *[0] * (length - len(tokens))]


@pytest.mark.parametrize(("seed", "alpha"), [(0, 0.0), (1, 0.6), (2, 1.0), (0, 3.0)])
def test_beams_for_all_hypotheses_find_the_best_of_all_sentences(seed, alpha):
    language = Language(np.random.default_rng(seed), sentences=5)
    decoded = tf.function(language.beams)(beams=24, alpha=alpha)
    for sentence in range(5):
        tokens, score = exhaustive(language, sentence, alpha)
        assert decoded.ids[sentence].numpy().tolist() == padded(tokens, 4)
        assert float(decoded.scores[sentence]) == pytest.approx(score, rel=1e-5)


def best_by_hand(language, sentence, beams, alpha, max_length=None):
    """Beam search without an early stop, with lists of tuples."""
    live, ended = [()], []
    for step in range(max_length or language.max_length):
        tokens = range(1, language.vocabulary)
        grown = [(*prefix, token) for prefix in live for token in tokens]
        grown.sort(key=lambda h: -language.log_probability(sentence, h))
        ended += [h for h in grown[: 2 * beams] if h[-1] == END_ID]
        live = [h for h in grown if h[-1] != END_ID][:beams]
        assert len(live[0]) == step + 1
    return max(
        ended or live[:1],
        key=lambda h: language.log_probability(sentence, h) / penalty(len(h), alpha),
    )


@pytest.mark.parametrize(("beams", "alpha"), [(1, 2.0), (2, 0.6), (3, 0.0), (4, 2.0)])
def test_stopping_early_does_not_change_what_is_found(rng, beams, alpha):
    language = Language(rng, sentences=12, vocabulary=5, max_length=5)
    decoded = tf.function(language.beams)(beams, alpha)
    for sentence in range(12):
        expected = best_by_hand(language, sentence, beams, alpha)
        assert decoded.ids[sentence].numpy().tolist() == padded(expected, 5)


def test_each_sentence_has_a_limit_of_its_own(rng):
    alpha = 0.6
    language = Language(rng, sentences=12, vocabulary=7, max_length=5)
    language.logits[:, :, END_ID] -= 2.0
    limits = np.array([1, 2, 3, 4, 5, 5] * 2, "int32")
    decoded = tf.function(
        lambda lengths: search_beams(
            language.step_logits, language.cache(2), 12, lengths, 2, alpha
        )
    )(tf.constant(limits))
    cut = 0
    for sentence, limit in enumerate(limits):
        expected = best_by_hand(language, sentence, 2, alpha, limit)
        assert decoded.ids[sentence].numpy().tolist() == padded(expected, 5)
        score = language.log_probability(sentence, expected)
        score /= penalty(len(expected), alpha)
        assert float(decoded.scores[sentence]) == pytest.approx(score, rel=1e-5)
        cut += END_ID not in expected
    assert cut > 0


@pytest.mark.parametrize(
    ("probabilities", "alpha", "greedily", "with_one", "with_two"),
    [
        # The end is the fourth best token: with two beams a candidate, with one not.
        ([0.0, 0.1, 0.4, 0.3, 0.2], 0.0, [2] * 4, [2] * 4, [1, 0, 0, 0]),
        # Not ending is by far more likely at each step, and yet cut off in the end.
        ([0.0, 0.2, 0.8], 0.6, [2] * 4, [1, 0, 0, 0], [1, 0, 0, 0]),
        # Padding is never emitted. The end is the third best of the rest.
        ([0.9, 0.02, 0.05, 0.03], 0.0, [2] * 4, [2] * 4, [1, 0, 0, 0]),
    ],
)
def test_one_of_twice_as_many_candidates_as_beams_ends_a_hypothesis(
    probabilities, alpha, greedily, with_one, with_two
):
    language = Fixed([probabilities], max_length=4)
    assert language.greedy().ids[0].numpy().tolist() == greedily
    for beams, expected in ((1, with_one), (2, with_two)):
        found = language.beams(beams, alpha).ids[0].numpy().tolist()
        assert found == expected


def test_greedy_search_takes_the_most_likely_token_at_each_step(rng):
    language = Language(rng, sentences=20, vocabulary=5, max_length=5)
    decoded = tf.function(language.greedy)()
    ends = 0
    for sentence in range(20):
        tokens = []
        while len(tokens) < 5 and END_ID not in tokens:
            options = [[*tokens, token] for token in range(1, 5)]
            tokens = max(options, key=lambda t: language.log_probability(sentence, t))
        ends += END_ID in tokens
        assert decoded.ids[sentence].numpy().tolist() == padded(tokens, 5)
        score = language.log_probability(sentence, tokens)
        assert float(decoded.scores[sentence]) == pytest.approx(score, rel=1e-5)
    assert 0 < ends < 20


@pytest.mark.parametrize("beams", [1, 3])
def test_a_sentence_that_never_ends_is_returned_at_its_full_length(beams):
    language = Fixed([[0.1, 0.0, 0.2, 0.3, 0.4]], max_length=6)
    expected = 6 * np.log(0.4)
    for decoded in (language.beams(beams, alpha=0.6), language.greedy()):
        assert decoded.ids.numpy().tolist() == [[4] * 6]
    score = language.beams(beams, alpha=0.6).scores
    assert float(score[0]) == pytest.approx(expected / penalty(6, 0.6), rel=1e-5)
    assert float(language.greedy().scores[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("in_graph", [False, True])
def test_the_search_stops_once_every_sentence_is_done(in_graph):
    ends_first = [0.0, 0.9, 0.06, 0.04]
    never_ends = [0.1, 0.0, 0.5, 0.4]
    expected = {"both": (1, 1), "one": (10, 10)}
    for name, probabilities in (
        ("both", [ends_first] * 2),
        ("one", [ends_first, never_ends]),
    ):
        steps = []
        for search in ("greedy", "beams"):
            language = Fixed(probabilities, max_length=10)
            arguments = {} if search == "greedy" else {"beams": 2, "alpha": 0.6}
            run = functools.partial(getattr(language, search), **arguments)
            (tf.function(run) if in_graph else run)()
            steps.append(int(language.steps))
        assert tuple(steps) == expected[name]


def test_the_search_goes_on_while_a_live_hypothesis_can_still_win():
    # log 0.5 of the end at once against log 0.5 of what lives on, which a penalty
    # of up to (15 / 6) ** alpha can make the better.
    language = Fixed([[0.0, 0.5, 0.5]], max_length=10)
    language.beams(1, alpha=0.0)
    assert int(language.steps) == 1
    language.steps.assign(0)
    language.beams(1, alpha=1.0)
    # After n more tokens: (n + 1) log 0.5 / (15 / 6), at most log 0.5 from n = 2 on.
    assert int(language.steps) == 3


@pytest.fixture(scope="module")
def model():
    """A Transformer with matrices of which some sentences end, at several lengths."""
    rng = np.random.default_rng(0)
    model = Transformer(VOCABULARY, 2, 8, 16, 2)
    model.build()
    for weight in model.weights:
        if weight.shape.rank > 1:
            weight.assign(rng.normal(size=weight.shape).astype("float32"))
    return model


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 7, size=10)
    ids = rng.integers(2, VOCABULARY, size=(10, 8))
    places = np.arange(8)
    ids = np.where(places < lengths[:, None], ids, END_ID)
    return np.where(places <= lengths[:, None], ids, 0).astype("int32")


def called(model, source, targets):
    """The logits (batch, T, vocabulary) of targets, by the model's `call`."""
    arrays = []
    for ids, segments in ((source, source != 0), (targets, np.ones_like(targets))):
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        arrays += [ids, segments, positions]
    arrays = [tf.constant(np.asarray(a), tf.int32) for a in arrays]
    return model(dict(zip(INPUT_NAMES, arrays, strict=True)))


class Recomputed:
    """What a search needs, by a `call` on the whole prefix at every step."""

    def __init__(self, model, source, beams):
        self.model, self.source = model, np.repeat(source, beams, axis=0)
        self.cache = tf.zeros((len(self.source), MAX_LENGTH + 1), tf.int32)

    def step_logits(self, ids, step, prefix):
        here = tf.range(MAX_LENGTH + 1) == step
        prefix = tf.where(here, ids[:, None], prefix)
        targets = prefix[:, 1 : int(step) + 2]
        return called(self.model, self.source, targets)[:, -1], prefix


@pytest.mark.parametrize(
    ("cached", "search", "beams", "arguments"),
    [
        (greedy, search_greedily, 1, ()),
        (beam_search, search_beams, 1, (1, 0.6)),
        (beam_search, search_beams, 5, (5, 0.0)),
    ],
)
def test_a_cached_search_finds_what_recomputing_each_prefix_finds(
    model, source, cached, search, beams, arguments
):
    found = tf.function(cached)(model, source, MAX_LENGTH, *arguments)
    slow = Recomputed(model, source, beams)
    step_logits, cache = slow.step_logits, slow.cache
    expected = search(step_logits, cache, len(source), MAX_LENGTH, *arguments)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)


@pytest.mark.parametrize("search", [greedy, functools.partial(beam_search, beams=3)])
def test_a_translation_depends_on_its_source_alone(model, source, search):
    translate = tf.function(
        lambda ids: search(model, ids, MAX_LENGTH),
        input_signature=[tf.TensorSpec((None, None), tf.int32)],
    )
    together = translate(source)
    assert len(np.unique(together.ids, axis=0)) > 2
    for row in range(len(source)):
        sentence = source[row : row + 1, : np.count_nonzero(source[row])]
        alone = translate(sentence)
        np.testing.assert_array_equal(alone.ids[0], together.ids[row])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 0}, "max_length must be at least 1. Received: 0"),
        ({"beams": 0}, "beams must be at least 1. Received: 0"),
        ({"alpha": -0.5}, "alpha must not be negative. Received: -0.5"),
    ],
)
def test_a_bad_argument_is_an_error_which_names_it(arguments, message):
    with pytest.raises(ValueError, match=message):
        search_beams(**{
            "step_logits": None, "cache": (), "sentences": 1, "max_length": 3,
            **arguments,
        })  # fmt: skip
