"""One guest's graphs and execution contexts."""
