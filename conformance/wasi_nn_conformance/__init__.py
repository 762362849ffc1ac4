"""The conformance suite: one set of cases for every engine, backend, dialect and host."""

__version__ = "0.1.0"
