"""Trace events of the native threads: enabled by name, recorded without delaying the threads."""
