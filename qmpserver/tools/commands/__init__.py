"""The commands of `qmpctl`, a module each."""
