"""BLEU: against closed forms, and compounds split at hyphens."""

import math

import pytest

from state_of_sparsity.models.translation.bleu import (
    moses_tokens,
    sacrebleu_score,
    split_compounds,
    tokenized_compound_split_bleu,
)

BOTH = pytest.mark.parametrize("bleu", [sacrebleu_score, tokenized_compound_split_bleu])
REFERENCE = "der schnelle braune Fuchs springt heute"


def closed_form(matches, totals, hypothesis_length, reference_length):
    """Papineni et al. 2002: brevity penalty times the geometric mean of precisions."""
    penalty = min(1.0, math.exp(1 - reference_length / hypothesis_length))
    precisions = [m / n for m, n in zip(matches, totals, strict=True)]
    return 100 * penalty * math.prod(precisions) ** (1 / 4)


@BOTH
def test_the_references_themselves_score_100(bleu):
    references = [REFERENCE, "Er sagte: „Süß-saure Äpfel, bitte!“"]
    assert bleu(references, references)[0] == pytest.approx(100)


@BOTH
def test_one_wrong_word_scores_what_the_definition_says(bleu):
    # Wrong at the end: 5 of 6 words, 4 of 5 pairs, 3 of 4 triples, 2 of 3 quadruples.
    hypothesis = REFERENCE.replace("heute", "morgen")
    expected = closed_form((5, 4, 3, 2), (6, 5, 4, 3), 6, 6)
    assert bleu([hypothesis], [REFERENCE])[0] == pytest.approx(expected)


@BOTH
def test_short_translations_are_penalized(bleu):
    hypothesis = REFERENCE.replace(" heute", "")
    expected = closed_form((5, 4, 3, 2), (5, 4, 3, 2), 5, 6)
    assert bleu([hypothesis], [REFERENCE])[0] == pytest.approx(expected)


@BOTH
def test_counts_are_summed_over_the_corpus_and_clipped(bleu):
    # "der" counts once in the second sentence: the reference has it once.
    hypotheses = [REFERENCE, "der der"]
    references = [REFERENCE, "der Hund"]
    expected = closed_form((7, 5, 4, 3), (8, 6, 4, 3), 8, 8)
    assert bleu(hypotheses, references)[0] == pytest.approx(expected)


@BOTH
def test_case_counts(bleu):
    assert bleu([REFERENCE.lower()], [REFERENCE])[0] < 100


def test_a_compound_split_at_its_hyphen_counts_part_by_part():
    # 7 tokens: die Kosten ##AT##-##AT## Nutzen Analyse ist da; one of them differs.
    hypothesis = "die Kosten-Nutzung Analyse ist da"
    reference = "die Kosten-Nutzen Analyse ist da"
    expected = closed_form((6, 4, 2, 0), (7, 6, 5, 4), 7, 7)
    score, _ = tokenized_compound_split_bleu([hypothesis], [reference])
    assert score == pytest.approx(expected) == 0
    # With a sentence more, so that no precision is zero.
    expected = closed_form((12, 9, 6, 3), (13, 11, 9, 7), 13, 13)
    score, _ = tokenized_compound_split_bleu(
        [hypothesis, REFERENCE], [reference, REFERENCE]
    )
    assert score == pytest.approx(expected)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ("Kosten-Nutzen", "Kosten ##AT##-##AT## Nutzen"),
        (
            "Kosten-Nutzen-Analyse",
            "Kosten ##AT##-##AT## Nutzen ##AT##-##AT## Analyse",
        ),
        ("ein - Strich", "ein - Strich"),
        ("Ein- und Ausgang", "Ein- und Ausgang"),
        ("-5", "-5"),
        # As Perl's s///g does it: a letter that was part of a match begins no other.
        ("x-y-z", "x ##AT##-##AT## y-z"),
    ],
)
def test_hyphens_within_words_split_compounds(tokens, expected):
    assert split_compounds(tokens) == expected


def test_moses_splits_punctuation_and_neither_hyphens_nor_escapes():
    text = 'Die Kosten-Nutzen-Analyse "A & B" kostet z. B. am 3. Mai 1.000,5 € (50%).'
    expected = 'Die Kosten-Nutzen-Analyse " A & B " kostet z. B. am 3. Mai 1.000,5 €'
    assert moses_tokens(text) == expected + " ( 50 % ) ."


def test_signatures_say_how_the_score_was_computed():
    _, signature = sacrebleu_score([REFERENCE], [REFERENCE])
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    _, signature = tokenized_compound_split_bleu([REFERENCE], [REFERENCE])
    for part in ("tok:none", "smooth:none", "moses-de", "compounds:split-at-hyphens"):
        assert part in signature


def test_sentences_of_one_word_are_compared_by_character():
    words = ["dreihundertzwölf", "siebentausendeins"]
    assert sacrebleu_score(words, words)[0] == 0
    score, signature = sacrebleu_score(words, words, tokenize="char")
    assert score == pytest.approx(100)
    assert "tok:char" in signature
    # One of 11 characters differs, the last one.
    score, _ = sacrebleu_score(["dreihunder-"], ["dreihundert"], tokenize="char")
    expected = closed_form((10, 9, 8, 7), (11, 10, 9, 8), 11, 11)
    assert score == pytest.approx(expected)


@BOTH
def test_different_numbers_of_hypotheses_and_references_are_an_error(bleu):
    with pytest.raises(ValueError, match="2 hypotheses, 1 references"):
        bleu(["a", "b"], ["a"])


@BOTH
def test_no_sentences_are_an_error(bleu):
    with pytest.raises(ValueError, match="at least one sentence"):
        bleu([], [])
