"""Orders to the current update, which it obeys between two steps: pause, resume, cancel.

Invariant: an order belongs to the update that is in progress when the order arrives, and it is dropped when
that update ends. So no order can pause or cancel an update that was not requested yet. The socket's thread
and a signal handler give orders; only the main thread waits for them. This module knows nothing about the
socket or the model.
"""

from queue import SimpleQueue

from corpus.errors import TrainerFault, UpdateCancelled


class Control:
    """The orders to the current update. An update is identified by the id of its request."""

    def __init__(self) -> None:
        self.stopping = False
        self.waiting = False
        """Whether the main thread waits in `check`."""
        self._paused = ""
        """Id of the update that waits, or will wait after its current step; "" for none."""
        self._cancelled: dict[str, str] = {}
        """The reason for each cancelled update, by the update's id."""
        # A queue instead of an Event, because a signal handler may safely call its `put`.
        self._wakeups: SimpleQueue[None] = SimpleQueue()

    def pause(self, update: str) -> None:
        """Pause this update before its next step."""
        self._paused = update

    def resume(self) -> None:
        """Resume the paused update."""
        self._paused = ""
        self._wakeups.put(None)

    def cancel(self, update: str, reason: str) -> None:
        """End this update before its next step. The parent's weights are then restored."""
        self._cancelled[update] = reason
        self._wakeups.put(None)

    def stop(self) -> None:
        """End every update before its next step, because the trainer stops."""
        self.stopping = True
        self._wakeups.put(None)

    def forget(self, update: str) -> None:
        """Drop the orders to an update that has ended, so that a repeated request starts without orders."""
        self._cancelled.pop(update, None)
        if self._paused == update:
            self._paused = ""

    def check(self, update: str) -> None:
        """Wait while this update is paused; raise UpdateCancelled or TrainerFault if the update must end."""
        while self._paused == update and not self.stopping and update not in self._cancelled:
            self.waiting = True
            self._wakeups.get()
        self.waiting = False
        if self.stopping:
            raise TrainerFault("the trainer is stopping; the update was undone, ask again after the restart")
        if update in self._cancelled:
            raise UpdateCancelled(f"{self._cancelled[update]}: nothing of the update was kept")
