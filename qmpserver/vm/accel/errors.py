"""Errors of accelerators."""


class AcceleratorError(Exception):
    """The accelerator cannot be provided; the text says why and what would be possible."""
