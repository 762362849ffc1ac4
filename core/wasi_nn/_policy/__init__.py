"""The values of a policy, and its file."""
