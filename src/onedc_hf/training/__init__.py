"""Training: importable pieces (data, losses, rate, starts) and the loop that wires them (`stage1.py`)."""
