"""Trace events: what native threads do, switched on by name and told without disturbing them."""
