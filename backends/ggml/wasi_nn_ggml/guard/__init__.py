"""Checks and estimates before llama.cpp, which ends its process on what it cannot take."""
