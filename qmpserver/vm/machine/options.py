"""Names and defaults of a machine's options; this module imports nothing native."""

from __future__ import annotations

from uuid import UUID

NO_UUID = UUID(int=0)
GUEST = ("pages", "size", "pattern", "rate")
"""The parameters of the guest `dirty`."""
