"""JSON schemas as grammars, and checks of grammars."""
