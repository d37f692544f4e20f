"""Linear operations as values: what a module does without its bias, and norms of it."""
