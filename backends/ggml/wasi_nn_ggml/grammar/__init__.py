"""Grammars for what a model may write: JSON schemas as GBNF, and checks of both."""
