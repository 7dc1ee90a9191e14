"""What can be wrong with an accelerator."""


class AcceleratorError(Exception):
    """The accelerator can't be had as asked for; the text says why and what would do."""
