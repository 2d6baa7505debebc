"""The command `onedc`. main.py builds the parser; each command has a file: arguments, one call, what is printed.

files.py   inputs (files, globs, folders), names of outputs, atomic writing, one bad file among many
models.py  --model, --device, --dtype, and the pipeline they name
text.py    tables and figures for people

Nothing here imports torch at the top: `--help`, `--version` and `info` start at once.
"""
