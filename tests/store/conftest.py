"""The home that these tests share is in `night.py` beside this file."""
