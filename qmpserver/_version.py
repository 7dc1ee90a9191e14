"""The one place that states this project's version."""

VERSION = "0.1.0"
