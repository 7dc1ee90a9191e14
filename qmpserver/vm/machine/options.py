"""What can be said of a machine before there is one; it imports nothing native."""

from __future__ import annotations

from uuid import UUID

from qmpserver.keyval import Kind

NO_UUID = UUID(int=0)
GUEST = {
    "pages": Kind.NUMBER,
    "size": Kind.SIZE,
    "pattern": Kind.STRING,
    "rate": Kind.NUMBER,
}
