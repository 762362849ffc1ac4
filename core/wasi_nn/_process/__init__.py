"""What concerns the whole process: signals, forks and its end."""
