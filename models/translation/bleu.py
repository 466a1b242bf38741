"""BLEU (Papineni et al. 2002) as it is reported now, and as the papers reported it."""

import functools
import re
from collections.abc import Sequence

import sacrebleu
import sacremoses

COMPOUND = re.compile(r"(\S)-(\S)")
SPLIT_COMPOUND = r"\1 ##AT##-##AT## \2"
LANGUAGE = "de"


def sacrebleu_score(
    hypotheses: Sequence[str], references: Sequence[str], tokenize: str = "13a"
) -> tuple[float, str]:
    """BLEU on text as it is, tokenized by sacreBLEU (Post 2018, arXiv 1804.08771).

    Args:
      hypotheses: translations, detokenized.
      references: one for each of them, in the same order.
      tokenize: sacreBLEU's name of a tokenizer: "13a", or "char" for sentences of less
        than four words, which have no BLEU otherwise.

    Returns:
      The score, from 0 to 100, and sacreBLEU's signature, which says how it was
      computed.

    Raises:
      ValueError: if the two differ in number, or are empty.
    """
    return _corpus_score(
        sacrebleu.metrics.BLEU(tokenize=tokenize), hypotheses, references
    )


def tokenized_compound_split_bleu(
    hypotheses: Sequence[str], references: Sequence[str], tokenized: bool = False
) -> tuple[float, str]:
    """BLEU on Moses tokens, with compounds split at hyphens.

    This is the published measure of Transformers on newstest2014 (Vaswani et al. 2017,
    arXiv 1706.03762; Gale, Elsen & Hooker 2019, arXiv 1902.09574), step by step:

    1. In the hypotheses alone, Moses replaces typographic punctuation.
    2. Moses tokenizes German, and escapes what is special in XML.
    3. Compounds are split at hyphens.
    4. BLEU is over these tokens, cased. As in Moses's multi-bleu.perl, nothing is
       smoothed: the score is 0 if no four words in a row are right.

    It is a point or so higher than sacreBLEU's own, and the two are not to be compared.

    Args:
      hypotheses: German translations, detokenized.
      references: one for each of them, in the same order.
      tokenized: whether the references are tokens already, with spaces in between, and
        go without the second step, as the published ones do.

    Returns:
      The score, from 0 to 100, and a signature, which says how it was computed.

    Raises:
      ValueError: if the two differ in number, or are empty.
    """
    bleu = sacrebleu.metrics.BLEU(
        tokenize="none",
        smooth_method="none",
        # Spares a warning that the text is tokenized.
        force=True,
    )
    if not tokenized:
        references = [moses_tokens(text) for text in references]
    score, signature = _corpus_score(
        bleu,
        [split_compounds(moses_tokens(replaced(text))) for text in hypotheses],
        [split_compounds(text) for text in references],
    )
    moses = f"moses-{LANGUAGE}:sacremoses-{sacremoses.__version__}"
    given = "given" if tokenized else "moses"
    return (
        score,
        f"{signature}|{moses}|hypotheses:punctuation-replaced|reference-tokens:{given}"
        "|compounds:split-at-hyphens",
    )


def replaced(text: str) -> str:
    """Text with plain punctuation where Moses replaces typographic.

    As Moses's replace-unicode-punctuation.perl: `“` and `”` become `"`, the apostrophe
    U+2019 becomes `'`, `…` three dots, and Chinese punctuation what it corresponds to.
    Opening quotes of German, `„` and the low single one, stay.
    """
    return _normalizer().replace_unicode_punct(text)


def moses_tokens(text: str) -> str:
    """The tokens of German text with spaces in between; hyphens do not split words.

    Characters to which XML or Moses give a meaning are escaped: `&quot;`, `&apos;`.
    """
    return _tokenizer().tokenize(
        text, aggressive_dash_splits=False, return_str=True, escape=True
    )


def split_compounds(tokens: str) -> str:
    """`"Kosten-Nutzen"` becomes `"Kosten ##AT##-##AT## Nutzen"`."""
    return COMPOUND.sub(SPLIT_COMPOUND, tokens)


@functools.cache
def _tokenizer():
    return sacremoses.MosesTokenizer(lang=LANGUAGE)


@functools.cache
def _normalizer():
    return sacremoses.MosesPunctNormalizer(lang=LANGUAGE)


def _corpus_score(bleu, hypotheses, references):
    if len(hypotheses) != len(references):
        raise ValueError(
            "There must be one reference for each hypothesis. Received: "
            f"{len(hypotheses)} hypotheses, {len(references)} references"
        )
    if not hypotheses:
        raise ValueError("BLEU is of at least one sentence. Received: none")
    score = bleu.corpus_score(list(hypotheses), [list(references)]).score
    return score, str(bleu.get_signature())
