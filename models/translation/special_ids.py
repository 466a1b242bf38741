"""The ids that stand for no text, which vocabulary, model and decoding agree on."""

# Also the symbol that a translation starts from.
PADDING_ID = 0
# Of a sentence.
END_ID = 1
UNKNOWN_ID = 2
