"""BLEU: against closed forms, and compounds split at hyphens."""

import math

import pytest

from state_of_sparsity.models.translation.bleu import (
    moses_tokens,
    replaced,
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
    references = [REFERENCE, 'Er sagte: "Süß-saure Äpfel, bitte!"']
    assert bleu(references, references)[0] == pytest.approx(100)


@BOTH
@pytest.mark.parametrize(
    ("hypotheses", "references", "expected"),
    [
        # Wrong at the end: 5 of 6 words, 4 of 5 pairs, 3 of 4 triples, 2 of 3 fours.
        (
            [REFERENCE.replace("heute", "morgen")],
            [REFERENCE],
            closed_form((5, 4, 3, 2), (6, 5, 4, 3), 6, 6),
        ),
        # Short translations are penalized.
        (
            [REFERENCE.replace(" heute", "")],
            [REFERENCE],
            closed_form((5, 4, 3, 2), (5, 4, 3, 2), 5, 6),
        ),
        # Counts are summed, and clipped: the second reference has "der" once.
        (
            [REFERENCE, "der der"],
            [REFERENCE, "der Hund"],
            closed_form((7, 5, 4, 3), (8, 6, 4, 3), 8, 8),
        ),
    ],
)
def test_the_score_is_that_of_the_definition(bleu, hypotheses, references, expected):
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


def test_moses_splits_punctuation_and_not_hyphens_and_escapes():
    text = 'Die Kosten-Nutzen-Analyse "A & B" kostet z. B. am 3. Mai 1.000,5 € (50%).'
    expected = (
        "Die Kosten-Nutzen-Analyse &quot; A &amp; B &quot; kostet z. B. am 3. Mai "
        "1.000,5 € ( 50 % ) ."
    )
    assert moses_tokens(text) == expected
    assert moses_tokens("so geht's [1]") == "so geht &apos; s &#91; 1 &#93;"


def test_moses_replaces_typographic_punctuation_but_for_the_low_quote():
    assert replaced("„Geht\u2019s?“, sagt er… ”So”") == '„Geht\'s?", sagt er... "So"'


def test_typographic_quotes_are_replaced_in_hypotheses_alone():
    text = "er sagte : „ so geht es “ ."
    # Of 9 tokens, in the hypothesis &quot; stands where the reference has the quote:
    # right are 8 of 9 words, 6 of 8 pairs, 5 of 7 triples and 4 of 6 quadruples.
    expected = closed_form((8, 6, 5, 4), (9, 8, 7, 6), 9, 9)
    assert len(moses_tokens(text).split()) == 9
    score, _ = tokenized_compound_split_bleu([text], [text])
    assert score == pytest.approx(expected)
    # A plain quote is what Moses makes of both.
    plain = text.replace("“", '"')
    score, _ = tokenized_compound_split_bleu([text], [plain])
    assert score == pytest.approx(100)


def test_references_in_tokens_are_split_at_hyphens_and_else_taken_as_they_are():
    hypothesis = 'Die "Kosten-Nutzen-Analyse" ist da.'
    tokens = "Die &quot; Kosten-Nutzen-Analyse &quot; ist da ."
    score, signature = tokenized_compound_split_bleu([hypothesis], [tokens], True)
    assert score == pytest.approx(100)
    assert "reference-tokens:given" in signature
    # Tokenized once more, each &quot; would be four tokens or so.
    assert tokenized_compound_split_bleu([hypothesis], [tokens])[0] < 60
    # Quotes that nobody escaped are other tokens: 9 of 11 words are right.
    raw = 'Die " Kosten-Nutzen-Analyse " ist da .'
    score, _ = tokenized_compound_split_bleu([hypothesis], [raw], tokenized=True)
    expected = closed_form((9, 6, 4, 2), (11, 10, 9, 8), 11, 11)
    assert score == pytest.approx(expected)


def test_signatures_say_how_the_score_was_computed():
    _, signature = sacrebleu_score([REFERENCE], [REFERENCE])
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    _, signature = tokenized_compound_split_bleu([REFERENCE], [REFERENCE])
    for part in (
        "tok:none",
        "smooth:none",
        "moses-de",
        "punctuation-replaced",
        "reference-tokens:moses",
        "compounds:split-at-hyphens",
    ):
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
def test_what_cannot_be_compared_is_an_error(bleu):
    with pytest.raises(ValueError, match="2 hypotheses, 1 references"):
        bleu(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="at least one sentence"):
        bleu([], [])
