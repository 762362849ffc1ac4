"""The conformance suite: one set of cases for every engine, backend, dialect and host."""
