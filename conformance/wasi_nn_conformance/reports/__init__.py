"""The matrix for people and for machines."""
