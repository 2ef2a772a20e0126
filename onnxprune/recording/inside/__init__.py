"""What runs inside a recorded program: the standard library and numpy, no other part of onnxprune, Python from 3.9 on.

The program may live in an environment of its own, so this package is loaded from its folder under another name
(``start/sitecustomize.py``) and imports only itself. It changes nothing that the program sees, and raises nothing.
"""
