"""Errors of the runtime."""


class RuntimeFileError(ValueError):
    """A file is damaged, foreign, or of a later version."""
