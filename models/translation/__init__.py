"""Translating English to German: a Transformer, its datasets, decoding and BLEU."""
