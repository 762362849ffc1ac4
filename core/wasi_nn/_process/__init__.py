"""The process that the host runs in: signals, forks and exit."""
