"""The ids that stand for no text, which vocabulary, model and decoding agree on."""

# Its embedding is zero. A translation starts from it, too.
PADDING_ID = 0
# Of a sentence.
END_ID = 1
# Of the vocabulary that is learned; no text becomes it.
UNKNOWN_ID = 2
