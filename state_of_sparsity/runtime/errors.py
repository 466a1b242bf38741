"""Errors of the runtime."""


class RuntimeFileError(ValueError):
    """A file is damaged, is of another kind, or is of a later version."""
