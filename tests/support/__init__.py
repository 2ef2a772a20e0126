"""What tests share.

- ``networks``: small models from a line of text; ``forms``: one network in every form that files come in; ``light``: the
  architectures in the onnx wheel
- ``rows``, ``patterns``, ``gradients``: what a row of ``tests/cases`` is
- ``oracles``: what must hold for any cut; ``mutations``: damages that the proof must see
- ``torch_reference``: torch as a second source of gradients; ``browser``: pages as a reader sees them
"""
