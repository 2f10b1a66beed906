"""Orders to the current update, which it obeys between two steps: pause, resume, cancel.

Invariant: an order is for the one update that is current when the order comes, and goes with it: no order can
pause or cancel an update that was not requested yet. The socket's thread and a signal handler give orders,
the main thread alone waits for them. This module knows nothing about the socket or the model.
"""

from queue import SimpleQueue

from corpus.errors import TrainerFault, UpdateCancelled


class Control:
    """The orders to the current update; an update is named by the id of its request."""

    def __init__(self) -> None:
        self.stopping = False
        self.waiting = False
        """Whether the main thread waits in `check`."""
        self._paused = ""
        """The update that waits, or will wait after its step; "" for none."""
        self._cancelled: dict[str, str] = {}
        """Reasons, by update."""
        # Not an Event: a signal handler may call a queue's `put`.
        self._wakeups: SimpleQueue[None] = SimpleQueue()

    def pause(self, update: str) -> None:
        """Pause this update before its next step."""
        self._paused = update

    def resume(self) -> None:
        """Resume the paused update."""
        self._paused = ""
        self._wakeups.put(None)

    def cancel(self, update: str, reason: str) -> None:
        """End this update before its next step; its weights are undone."""
        self._cancelled[update] = reason
        self._wakeups.put(None)

    def stop(self) -> None:
        """End every update before its next step; the trainer stops."""
        self.stopping = True
        self._wakeups.put(None)

    def forget(self, update: str) -> None:
        """Drop the orders to an update that has ended; a later one of this name starts without orders."""
        self._cancelled.pop(update, None)
        if self._paused == update:
            self._paused = ""

    def check(self, update: str) -> None:
        """Wait while this update is paused; raise when it must end."""
        while self._paused == update and not self.stopping and update not in self._cancelled:
            self.waiting = True
            self._wakeups.get()
        self.waiting = False
        if self.stopping:
            raise TrainerFault("the trainer is stopping; the update was undone, ask again after the restart")
        if update in self._cancelled:
            raise UpdateCancelled(f"{self._cancelled[update]}: nothing of the update was kept")
