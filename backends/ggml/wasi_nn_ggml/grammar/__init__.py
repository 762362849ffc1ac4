"""What a text may be: grammars in GBNF, and JSON schemas, with llguidance."""
