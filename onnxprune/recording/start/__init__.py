"""A folder that stands in front of ``PYTHONPATH`` while a program is recorded: the interpreter runs its sitecustomize at start."""
