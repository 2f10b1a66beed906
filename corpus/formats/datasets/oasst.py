"""Reader of OpenAssistant: trees of messages, nested, or one message on each line.

Invariant: the conversation is the branch of the best answers, by their ranks. Another answer of a known rank
is a conversation of its own, with the best one as its edit. Messages that were deleted or failed their review
give no turns.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from corpus.aliases import Json
from corpus.conversation import Conversation, Turn
from corpus.formats.format import Format, Located, Part, Reading
from corpus.formats.messages import turns_of
from corpus.formats.parts import text_at
from corpus.formats.sessions import numbered
from corpus.lines import BadLine

NAME = "oasst"


def recognises(value: Any) -> bool:
    """Return whether a value is a tree, or a message of one."""
    if not isinstance(value, dict):
        return False
    tree = isinstance(value.get("prompt"), dict) and "message_tree_id" in value
    return tree or ("message_id" in value and "text" in value and "role" in value)


def read(value: Any, line: int) -> Reading:
    """Return the conversations of a tree; see `join` for messages."""
    return tuple(join([(line, value)]))


def join(records: Iterable[Located]) -> Iterator[Part]:
    """Yield the conversations of each tree."""
    roots: list[tuple[int, Json]] = []
    nodes: dict[str, Json] = {}
    for line, value in numbered(records):
        if isinstance(value.get("prompt"), dict):
            roots.append((line, value["prompt"]))
        elif recognises(value):
            node = {**value, "replies": [], "line": line}
            nodes[text_at(value, "message_id")] = node
    for node in nodes.values():
        parent = nodes.get(text_at(node, "parent_id"))
        if parent is None:
            roots.append((node["line"], node))
        else:
            parent["replies"].append(node)
    for line, root in roots:
        yield from _tree(root, line)


def _tree(root: Json, line: int) -> Iterator[Part]:
    """Yield the branch of the best answers of a tree, then its other answers."""
    turns: list[Turn] = []
    others: list[Part] = []
    level = [root]
    while level:
        own = turns_of([level[0]], line)
        if isinstance(own, BadLine):
            yield own
            break
        for other in level[1:]:
            worse = turns_of([other], line)
            if level[0].get("role") != "assistant" or isinstance(worse, BadLine) or not own:
                continue
            for turn in worse:
                if turn.text != own[0].text and isinstance(other.get("rank"), int):
                    told = (*turns, replace(turn, edited=own[0].text))
                    others.append(Conversation(source="", format=NAME, turns=told, copied=len(turns)))
        turns += own
        replies = level[0].get("replies")
        level = _best_first(replies if isinstance(replies, list) else [])
    while turns and turns[-1].role == "user":
        turns.pop()
    if turns:
        yield Conversation(source="", format=NAME, turns=tuple(turns))
    yield from others


def _best_first(replies: list[Any]) -> list[Json]:
    """Return the replies that count, those with the best ranks first."""
    kept = [
        reply for reply in replies
        if isinstance(reply, dict) and not reply.get("deleted") and reply.get("review_result") is not False
    ]  # fmt: skip
    return sorted(kept, key=_rank)


def _rank(reply: Json) -> int:
    rank = reply.get("rank")
    return rank if isinstance(rank, int) else 1_000_000


FORMAT = Format(
    name=NAME,
    title="OpenAssistant (OASST): trees, and messages",
    seen="the published files of oasst1 and oasst2",
    link="https://huggingface.co/datasets/OpenAssistant/oasst2",
    recognises=recognises,
    read=read,
    join=join,
)
