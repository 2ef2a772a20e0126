"""The picture of a model's graph: parted into blocks, laid out in layers, drawn as inline SVG."""
