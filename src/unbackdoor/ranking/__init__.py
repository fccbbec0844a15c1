"""FMP's two steps: images that move each feature map, and how the model does on them."""
