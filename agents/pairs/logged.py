"""Pairs of corrections in logs: the corrected answer is rejected, and the better one that followed is chosen.

Invariant: the messages of such a pair are those that the model saw before the corrected answer, cut at a
user's turn if they are too long, with the tools that it was offered. A correction without a pair is counted
with the reason.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agents.model.client import ModelClient
from agents.model.context import ContextSettings, Fit, Talk, fit
from agents.pairs.attempts import Judge
from corpus.aliases import Message
from corpus.behaviour import Behaviour
from store.ledger.records import Node, Pair, Signal, identity

Lesson = tuple[Signal, Node]
"""A signal of this night, and the graph node of the episode that it belongs to."""
TURN_TOKENS = 16
"""Tokens that are left free for the template's markup at the end of an answer."""
CALLS, LONG, NO_BETTER, UNCONFIRMED = (
    "the corrected answer calls a tool: a pair has words only",
    "the conversation before the answer is longer than `context.max_tokens`",
    "the log has no better answer",
    "the judge does not fail the corrected answer and pass the better one",
)
"""Reasons why a correction gives no pair."""


@dataclass(frozen=True, kw_only=True)
class LoggedPairs:
    """The pairs of some corrections, and why the other corrections give none."""

    pairs: list[Pair]
    left_out: Counter[str]
    """Number of corrections without a pair, by reason."""


@dataclass(frozen=True, kw_only=True)
class PairsOfLogs:
    """Makes pairs of the corrections that a night has taken up."""

    model: ModelClient
    judge: Judge
    context: ContextSettings
    trust: float
    """Weight of such a pair in training, 0 to 1."""

    async def of(
        self, lessons: Sequence[Lesson], behaviours: dict[str, Behaviour], night_id: str, checkpoint_id: str
    ) -> LoggedPairs:
        """Return the pairs of these corrections, in their order.

        Args:
            lessons: The corrections.
            behaviours: The behaviours that they are about, by name.
            night_id: The night of the pairs.
            checkpoint_id: Id of the active checkpoint, to which the rejected answers are attributed.
        """
        left_out, confirmed = Counter[str](), list[Lesson]()
        for lesson in lessons:
            if reason := await self._refusal(lesson, behaviours[str(lesson[0].behaviour)]):
                left_out[reason] += 1
            else:
                confirmed.append(lesson)
        pairs = list[Pair]()
        for lesson, found in zip(confirmed, await self._fitted(confirmed), strict=True):
            if found.reason:
                left_out[found.reason] += 1
            else:
                pairs.append(self._pair(lesson, found.messages, night_id, checkpoint_id))
        return LoggedPairs(pairs=pairs, left_out=left_out)

    async def _refusal(self, lesson: Lesson, behaviour: Behaviour) -> str:
        """Return why a correction gives no pair; "" if the judge confirms it."""
        body = lesson[1].body
        request, answer, better = (body.get(key) for key in ("request", "answer", "better"))
        if not (request and answer and better):
            return NO_BETTER
        if body.get("calls"):
            return CALLS
        messages = context_of(lesson[1])
        if not messages:
            return LONG
        if behaviour.judge.kind != "rubric":
            # The user's last turn may be a complaint about an earlier answer to the request.
            messages = [*messages[:-1], {"role": "user", "content": request}]
        bad = await self.judge.judge(behaviour, messages, answer)
        good = await self.judge.judge(behaviour, messages, better)
        return UNCONFIRMED if bad.passed or not good.passed else ""

    async def _fitted(self, lessons: Sequence[Lesson]) -> list[Fit]:
        """Return the context of each correction, cut so that the model takes it with both answers."""
        if not lessons:
            return []
        window = (await self.model.served_model()).context
        answers = [str(node.body[side]) for _, node in lessons for side in ("answer", "better")]
        lengths = [len(tokens) for tokens in await self.model.tokenize_texts(answers)]
        longest = [max(pair) for pair in zip(lengths[::2], lengths[1::2], strict=True)]
        talks = [Talk(messages=context_of(node), tools=node.body.get("tools") or ()) for _, node in lessons]
        room = [window - length - TURN_TOKENS for length in longest]
        return await fit(self.model, talks, [min(self.context.max_tokens, left) for left in room])

    def _pair(self, lesson: Lesson, messages: list[Message], night_id: str, checkpoint_id: str) -> Pair:
        """Return the pair of a confirmed correction, with these messages before both answers."""
        signal, episode = lesson
        place = f"log:{signal.conversation_id}:{signal.position}"
        return Pair(
            id="p" + identity(signal.id, episode.body["answer"], episode.body["better"]),
            behaviour=str(signal.behaviour),
            messages=messages,
            tools=episode.body.get("tools") or [],
            chosen=episode.body["better"],
            rejected=episode.body["answer"],
            chosen_from=place,
            rejected_from=place,
            dream_id=None,
            signal_id=signal.id,
            source=signal.source,
            trust=self.trust,
            checkpoint_id=checkpoint_id,
            state="new",
            night_id=night_id,
        )


def context_of(episode: Node) -> list[Message]:
    """Return the messages before an episode's answer; [] if they were too long to be stored.

    Episodes of earlier versions have the request alone.
    """
    asked = [{"role": "user", "content": episode.body["request"]}]
    messages: list[Message] = episode.body.get("context", asked)
    return messages
