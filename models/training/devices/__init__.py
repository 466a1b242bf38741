"""Which devices train, on one machine or several."""
