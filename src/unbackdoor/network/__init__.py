"""The anatomy of any `nn.Module`: its channels, norms and stages, and a fast copy of it."""
