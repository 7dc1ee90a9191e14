"""A QMP-compatible virtual-machine monitor with a real KVM dirty-ring engine."""

from qmpserver._version import VERSION as __version__

__all__ = ["__version__"]
