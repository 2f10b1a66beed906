"""What an update is told between two of its steps: wait, go on, end.

Invariant: an order is for the one update that is there when it comes, and goes with it: nothing can pause or
cancel an update that has not been asked for yet. The socket's thread and a signal handler give orders, the
main thread alone waits for them. Knows no socket and no model.
"""

from queue import SimpleQueue

from corpus.errors import TrainerFault, UpdateCancelled


class Control:
    """The orders to the update in hand; updates are named by the ids of their requests."""

    def __init__(self) -> None:
        self.stopping = False
        self.waiting = False
        """Whether the main thread waits in `check`."""
        self._paused = ""
        """The update that waits, or will after its step; "" for none."""
        self._cancelled: dict[str, str] = {}
        """Why, by update."""
        self._bell: SimpleQueue[None] = (
            SimpleQueue()
        )  # its `put` may be called in a signal handler, an Event's not

    def pause(self, update: str) -> None:
        """Have this update wait before its next step."""
        self._paused = update

    def resume(self) -> None:
        """Have the update that waits go on."""
        self._paused = ""
        self._bell.put(None)

    def cancel(self, update: str, reason: str) -> None:
        """Have this update end before its next step, with its weights undone."""
        self._cancelled[update] = reason
        self._bell.put(None)

    def stop(self) -> None:
        """Have every update end before its next step; the trainer stops."""
        self.stopping = True
        self._bell.put(None)

    def forget(self, update: str) -> None:
        """This update has ended: another one of its name is told anew."""
        self._cancelled.pop(update, None)
        if self._paused == update:
            self._paused = ""

    def check(self, update: str) -> None:
        """Wait while this update is paused; raise when it must end."""
        while self._paused == update and not self.stopping and update not in self._cancelled:
            self.waiting = True
            self._bell.get()
        self.waiting = False
        if self.stopping:
            raise TrainerFault("the trainer is stopping; the update was undone, ask again after the restart")
        if update in self._cancelled:
            raise UpdateCancelled(f"{self._cancelled[update]}: nothing of the update was kept")
