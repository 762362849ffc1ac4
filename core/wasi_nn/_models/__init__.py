"""Named models: how they are written down, found, loaded once and checked."""
