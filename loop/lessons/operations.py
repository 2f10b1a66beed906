"""The operations on proposals, as a mixin of `Operations`: they need the ledger, and no model."""

from dataclasses import dataclass

from sqlalchemy import Connection

from corpus.errors import UsageError
from loop.engine.service import Service
from loop.lessons.accepting import named
from loop.lessons.gathering import assembled, described, refresh
from loop.lessons.results import Decided, Lesson, Lessons
from store import proposals
from store.proposals import LATER, MERGED, OPEN, REJECTED


@dataclass(frozen=True, kw_only=True)
class LessonOperations:
    """Lists proposals, and takes decisions on them."""

    service: Service

    async def lessons(self, *, everything: bool = False) -> Lessons:
        """Return the open proposals; with `everything` also those that wait for more evidence or are decided.

        Args:
            everything: Whether to return all proposals.
        """
        await self._refresh()
        all_ = await self._described()
        least = self.service.settings.lessons.conversations
        shown = [one for one in all_ if one.state == OPEN and one.conversations >= least]
        waiting = sum(one.state == OPEN for one in all_) - len(shown)
        ordered = sorted(all_ if everything else shown, key=lambda one: (-one.sure, one.number))
        return Lessons(lessons=ordered, waiting=waiting)

    async def lesson(self, *, number: int) -> Lesson:
        """Return one proposal, whatever its state."""
        await self._refresh()
        found = next((one for one in await self._described() if one.number == number), None)
        if found is None:
            raise UsageError(f"there is no proposal {number}: `nightschool lessons --all` lists them all")
        return found

    async def _refresh(self) -> None:
        """Read the conversations that wait, and add their complaints to the proposals."""
        await self.service.worker.read_conversations()
        await self.service.ledger.write(refresh, self.service.behaviours)

    async def _described(self) -> list[Lesson]:
        service = self.service
        return await service.ledger.read(described, service.behaviours, service.settings)

    async def lesson_accept(self, *, number: int, text: str | None = None) -> Decided:
        """Accept a proposal: see `Accepting.accept`."""
        await self._refresh()
        decided = await self.service.accepting.accept(number, text)
        self.service.worker.wake()
        return decided

    async def lesson_reject(self, *, number: int, because: str) -> Decided:
        """Reject a proposal; it is shown again only when new conversations complain."""
        if not because.strip():
            raise UsageError("say why: --because TEXT")
        return await self.service.ledger.write(self._decide, number, REJECTED, because)

    async def lesson_later(self, *, number: int) -> Decided:
        """Put a proposal off until there is new evidence."""
        return await self.service.ledger.write(self._decide, number, LATER, "")

    def _decide(self, connection: Connection, number: int, state: str, reason: str) -> Decided:
        named(assembled(connection, self.service.behaviours), number)
        proposals.decide(connection, number, state, reason=reason)
        return Decided(number=number, state=state)

    async def lesson_merge(self, *, number: int, into: int) -> Decided:
        """Give the evidence of one proposal to another."""
        return await self.service.ledger.write(self._merge, number, into)

    def _merge(self, connection: Connection, number: int, into: int) -> Decided:
        if number == into:
            raise UsageError("name two different proposals")
        all_ = assembled(connection, self.service.behaviours)
        for one in (number, into):
            named(all_, one)
        proposals.merge(connection, number, into)
        return Decided(number=number, state=MERGED)


LESSONS = ("lessons", "lesson", "lesson_accept", "lesson_reject", "lesson_later", "lesson_merge")
"""Names of these operations."""
