# The compiled module: what it holds is declared in C, in the headers' cdef marks.
from typing import Any

ffi: Any
lib: Any
