"""The command line, with a death sentence: `killable.py K MOMENT VICTIMS COUNT -- ARGUMENTS...`.

At the K-th ledger commit of this process, SIGKILL comes just before the commit is durable (MOMENT `before`)
or just after (`after`), to the whole process group (VICTIMS `all`) or to this process alone (`service`). K =
0 never kills. The number of commits made goes to the file COUNT at a normal end. The product knows nothing of
this.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from sqlalchemy import Connection, Engine, event

from loop.cli.app import main

KILL_AT, MOMENT, VICTIMS, COUNT = int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])
_counting = threading.Lock()
_commits = 0


@event.listens_for(Engine, "commit")
def on_commit(connection: Connection) -> None:
    """Count a commit, and kill before or after it if its turn has come."""
    global _commits
    with _counting:
        _commits += 1
        if _commits != KILL_AT:
            return
    if MOMENT == "after":
        connection.dialect.do_commit(connection.connection)
    if VICTIMS == "all":
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


sys.argv = ["nightschool", *sys.argv[sys.argv.index("--") + 1 :]]
try:
    main()
finally:
    COUNT.write_text(str(_commits))
