"""One folder a published method; each one's `__init__` is its page: the paper, the equations, where we deviate."""
