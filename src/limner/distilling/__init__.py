"""How a student of few steps is made from a teacher. Next: `paths.py`."""
