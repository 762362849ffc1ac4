"""Get a model's files from where the operator says that they are: a path, a package, a server."""
