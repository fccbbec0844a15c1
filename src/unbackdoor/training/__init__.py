"""The training loop, and what repairs and attacks learn with."""
