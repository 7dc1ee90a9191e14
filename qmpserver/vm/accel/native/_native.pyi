# The compiled module. Its contents are declared between the cdef marks of the C headers.
from typing import Any

ffi: Any
lib: Any
