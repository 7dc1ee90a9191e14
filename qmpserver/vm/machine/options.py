"""Names and defaults of a machine's options; this module imports nothing native."""

from __future__ import annotations

NO_UUID = "00000000-0000-0000-0000-000000000000"
GUEST = ("pages", "size", "pattern", "rate")
"""The parameters of the guest `dirty`."""
