"""Checks and estimates that run before llama.cpp, which ends its process on bad data."""
