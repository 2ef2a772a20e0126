"""One file per command: its name is the command's name, and it holds a click command called ``command``."""
