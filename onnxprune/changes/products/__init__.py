"""Products with stored weights in the operators that a runtime is faster with (``--matmul-as``): the model computes what it did.

``find`` says which products can be written so, ``surgery`` writes them, ``space`` is the kind of change.
"""
