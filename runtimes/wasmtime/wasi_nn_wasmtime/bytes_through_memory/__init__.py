"""Passing a component's lists of bytes through its memory. README.md says why, and until when."""
