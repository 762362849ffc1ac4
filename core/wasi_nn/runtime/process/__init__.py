"""A runtime whose guests run in processes of their own."""
