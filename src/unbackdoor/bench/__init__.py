"""The bench: attacks x defenses x data x seeds, each cell a result. See `docs/bench.md`.

Nothing is imported here: `bench.store` is read by the report, which does not know torch.
"""
