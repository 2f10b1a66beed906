"""The helpers that these tests share (`planted.py`, `read_here.py`) are beside this file."""
