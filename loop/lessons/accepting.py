"""Accept a proposal: write its behaviour file, and make lessons of its complaints.

Invariant: the file is written before the ledger names it. If the process dies between the two, the next
attempt writes the same file again.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from corpus.behaviour import Behaviour, load_file
from corpus.errors import GateRefused, UsageError
from loop.config import Settings
from loop.lessons.gathering import Proposal, assembled, described, refresh, teach
from loop.lessons.results import Decided, Lesson
from loop.night.context import NightContext, definitions
from store import proposals, queries
from store.files.durable import new_file
from store.home import Home
from store.proposals import ACCEPTED, OPEN

FOR_A_PERSON = ("no_question_at_end",)
"""Checks of rules that only a person accepts: a model that asks back may have a reason."""


@dataclass(frozen=True, kw_only=True)
class Accepting:
    """Accepts proposals in one home, with the home's opened parts."""

    home: Home
    context: NightContext

    async def accept(self, number: int, text: str | None = None) -> Decided:
        """Write the behaviour file of a proposal, and make lessons of its complaints.

        Args:
            number: The proposal's number.
            text: The file as a person has changed it; None for the draft.

        Raises:
            GateRefused: A night is running, or the proposal has no draft and no text is given.
            ConfigError: The text is no behaviour file.
        """
        if await self.context.ledger.read(queries.running_night) is not None:
            raise GateRefused("a night is running: accept it when the night has ended (`nightschool status`)")
        proposal = await self.context.ledger.read(self._open, number)
        if text is None and proposal.draft is None:
            raise GateRefused(
                f"proposal {number} cannot be judged by a check, so no night could teach it: "
                f"`nightschool lessons accept {number} --edit` lets you write its behaviour file"
            )
        written = text if text is not None else proposal.draft.text if proposal.draft else ""
        pair = self._read(written)
        path = self.home.path / "behaviours" / f"{pair[0].name}.toml"
        with new_file(path.parent, "behaviour") as stream:
            stream.write(written.encode())
            stream.keep(path.name)
        self._declare(pair)
        taught = await self.context.ledger.write(self._store, number, pair[0].name, proposal)
        return Decided(number=number, state=ACCEPTED, behaviour=pair[0].name, file=str(path), lessons=taught)

    def _open(self, connection: Connection, number: int) -> Proposal:
        return named(assembled(connection, self.context.behaviours), number)

    def _read(self, text: str) -> tuple[Behaviour, Behaviour]:
        """Return the behaviours of a file's text; raise an error if it is wrong, or a name is taken."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "lesson.toml"
            path.write_text(text, "utf-8")
            pair = load_file(path)
        for behaviour in pair:
            if behaviour.name in self.context.behaviours:
                raise UsageError(f"there is already a behaviour named {behaviour.name}: choose another name")
        return pair

    def _declare(self, pair: Sequence[Behaviour]) -> None:
        """Make the behaviours known to the running service, as reading their file at a start does."""
        new = {behaviour.name: behaviour for behaviour in pair}
        self.context.behaviours.update(new)
        self.context.definitions.update(definitions(new, self.context.settings, ()))

    def _store(self, connection: Connection, number: int, name: str, proposal: Proposal) -> int:
        proposals.decide(connection, number, ACCEPTED, behaviour=name)
        return teach(connection, name, self.context.behaviours, proposal.complaints)

    async def accept_by_itself(self) -> list[Decided]:
        """Accept what `lessons.accept` lets the program accept without a person; return what was accepted."""
        settings = self.context.settings
        if settings.lessons.accept == "ask":
            return []
        if await self.context.ledger.read(queries.running_night) is not None:
            return []
        await self.context.ledger.write(refresh, self.context.behaviours)
        lessons = await self.context.ledger.read(described, self.context.behaviours, settings)
        return [await self.accept(one.number) for one in lessons if may_accept(one, settings)]


def may_accept(lesson: Lesson, settings: Settings) -> bool:
    """Return whether a proposal may be accepted without a person.

    With "catalogue" it needs a check, `lessons.people` people and no contradiction. With "all" it needs a
    check and `lessons.conversations` conversations. A check is always needed, because a proposal without a
    judge has no file to accept.
    """
    rules = settings.lessons
    if lesson.state != OPEN or not lesson.judged or lesson.taught or lesson.check in FOR_A_PERSON:
        return False
    if rules.accept == "all":
        return lesson.conversations >= rules.conversations
    enough = lesson.people >= rules.people and lesson.conversations >= rules.conversations
    return rules.accept == "catalogue" and enough and not lesson.contradicts


def named(all_: Sequence[Proposal], number: int) -> Proposal:
    """Return the proposal with this number; raise an error if there is none or it is decided for good."""
    found = next((one for one in all_ if one.row.number == number), None)
    if found is None:
        raise UsageError(f"there is no proposal {number}: `nightschool lessons` lists them")
    if found.row.state == ACCEPTED:
        raise UsageError(
            f"proposal {number} is behaviour {found.row.behaviour} already: "
            "change or delete its file in behaviours/"
        )
    if found.row.merged_into:
        raise UsageError(f"proposal {number} was merged into {found.row.merged_into}: decide on that one")
    return found
