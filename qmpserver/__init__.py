"""A QMP-compatible virtual-machine monitor with a real KVM dirty-ring engine."""

from qmpserver import _version

__all__ = ["__version__"]

__version__ = _version.VERSION
