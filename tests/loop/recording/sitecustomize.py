"""Has every Python process that finds this folder on its path record its file operations: see `lost_writes.py`."""

import os
import sys
from pathlib import Path

if to := os.environ.get("NS_RECORD"):
    sys.path.append(str(Path(__file__).parent.parent))
    from lost_writes import record

    record(Path(to))
