"""QMP servers in other people's test suites, and the pytest plugin that brings them there."""
