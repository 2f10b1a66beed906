"""Seeds of draws, from names.

Invariant: the seed of a draw depends on what is drawn and on nothing else. Knows no generator.
"""

import hashlib
import json


def derive(seed: int, *names: str | int) -> int:
    """The seed of the draw that these names say, 63 bits."""
    text = json.dumps([seed, *names], separators=(",", ":")).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
