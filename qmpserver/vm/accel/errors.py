"""The error of an accelerator."""


class AcceleratorError(Exception):
    """The accelerator is not available with these options; the text gives the reason."""
