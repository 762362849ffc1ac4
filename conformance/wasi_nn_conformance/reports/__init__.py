"""The matrix, as reports for users and for tools."""
