"""Turn a conversation into signals and a piece of the memory graph.

Invariant: pure; the same conversation and behaviours give the same records, and a conversation that grows
keeps its signals. A contradiction adds an edge and never removes a supporting edge. Log text is data: it goes
into the bodies of nodes and into reasons, with special tokens broken apart. Only the context of an episode
has the words as they were: it is for the chat template, which takes contents as data. This module does not
know what the graph already holds: `store.graph.merge` merges the records into the graph.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from agents.extractor.facts import Fact, facts
from agents.extractor.feelings import feelings, strongest
from agents.extractor.harm import escaped, specific
from agents.extractor.lessons import Judging, Lesson, decide, evidence
from agents.extractor.own_words import TAKEN_CHARS
from agents.extractor.rules import Finding, Hints, calls, find
from corpus.aliases import Json, Message
from corpus.behaviour import Behaviour
from corpus.context import as_messages, cut_at, opening, seen_before, within
from corpus.conversation import Turn, tools_at
from store.ledger.records import Edge, Node, Record, Signal, identity

MOST_LESSONS = 3
"""Largest number of new lessons for one behaviour from one conversation."""
LONGEST_BODY = 4000
"""Number of characters of a request or an answer that a node stores. The stored turn has the whole text."""


@dataclass(frozen=True, kw_only=True)
class ConversationView:
    """The parts of a conversation that the extractor needs."""

    id: str
    source: str
    turns: tuple[Turn, ...]
    """All turns; a turn's index is its position."""
    most_characters: int = 16_384
    """Most characters of a context; a longer one is cut at a user's turn."""
    copied: int = 0
    """Number of leading turns that another conversation has too; their signals count there."""


def extract(
    conversation: ConversationView,
    behaviours: Mapping[str, Behaviour],
    judging: Judging,
    at: str,
    *,
    read: Sequence[Finding] = (),
) -> tuple[Record, ...]:
    """Return the nodes, signals and edges of a conversation.

    Args:
        conversation: The conversation with all its turns.
        behaviours: The declared behaviours, by name.
        judging: Judges answers by the behaviours' checks and patterns.
        at: The time to store in the signals.
        read: Findings of a language model, which are joined with the findings of the rules.
    """
    found = join(find(conversation.turns, hints(behaviours, judging)), read)
    findings = [finding for finding in found if finding.position >= conversation.copied]
    lessons = limited([decide(finding, behaviours, judging) for finding in findings])
    nodes = {node.id: node for node in declared(behaviours)}
    signals, edges = list[Signal](), list(_guards(behaviours))
    for lesson in lessons:
        signal = _signal(conversation, lesson, at)
        signals.append(signal)
        for node in _lesson_nodes(conversation, lesson):
            nodes[node.id] = _joined(nodes[node.id], node) if node.id in nodes else node
        edges += _lesson_edges(conversation, lesson, signal)
    for fact in facts(conversation.turns):
        if fact.position < conversation.copied:
            continue
        episode, node = _fact_nodes(conversation, fact)
        nodes.setdefault(episode.id, episode)
        nodes[node.id] = node
        edges.append(Edge(kind="about", tail_id=node.id, head_id=episode.id))
    return (*nodes.values(), *signals, *dict.fromkeys(edges))


def hints(behaviours: Mapping[str, Behaviour], judging: Judging) -> Hints:
    """Return what the rules may know about these behaviours: two tests and the cue words."""
    known = [behaviour for behaviour in behaviours.values() if specific(behaviour)]
    return Hints(
        failed=lambda request, answer: bool(evidence(behaviours, judging, request, answer).failed),
        is_request=lambda text: any(judging.applies(b, [_user(text)]) for b in known),
        cues=tuple(sorted({cue for behaviour in behaviours.values() for cue in behaviour.cues})),
    )


def _user(text: str) -> Message:
    return {"role": "user", "content": text[:TAKEN_CHARS]}


def join(rules: Iterable[Finding], read: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the findings of the rules and those of a model (`read`) as one list, ordered by position.

    Two findings of the same kind at the same turn become one with the higher strength.
    """
    joined = {(finding.position, finding.kind): finding for finding in rules}
    for finding in read:
        place = (finding.position, finding.kind)
        known = joined.get(place)
        if known is None:
            joined[place] = finding
            continue
        joined[place] = replace(
            known,
            strength=max(finding.strength, known.strength),
            claimed=finding.claimed,
            of=known.of or finding.of,
            found_by=f"{known.found_by}+{finding.found_by}",
        )
    return tuple(joined[place] for place in sorted(joined))


def limited(lessons: Sequence[Lesson]) -> tuple[Lesson, ...]:
    """Return all lessons; new lessons beyond the limits become noted ones.

    The limits are one new lesson for each answer and MOST_LESSONS new lessons for each behaviour.
    """
    taught: Counter[str | None] = Counter()
    answers, allowed = set[int](), list[Lesson]()
    for lesson in lessons:
        answer, excess = lesson.finding.answer_position, ""
        if lesson.state == "new" and answer in answers:
            excess = "this answer is a lesson already"
        elif lesson.state == "new" and taught[lesson.behaviour] >= MOST_LESSONS:
            excess = f"over {MOST_LESSONS} in a conversation"
        elif lesson.state == "new":
            taught[lesson.behaviour] += 1
            answers.add(answer)
        noted = replace(lesson, state="noted", reason=f"{lesson.reason}; {excess}")
        allowed.append(noted if excess else lesson)
    return tuple(allowed)


def node_id(kind: str, name: str) -> str:
    """Return the id of the node of this kind and name."""
    return identity(kind, name)


def declared(behaviours: Mapping[str, Behaviour]) -> list[Node]:
    """Return one graph node for each of the declared behaviours."""
    return [
        _node("behaviour", name, {**asdict(behaviour), "proposed": False})
        for name, behaviour in behaviours.items()
    ]


def _guards(behaviours: Mapping[str, Behaviour]) -> Iterable[Edge]:
    """Yield an edge of kind `guards` from each counter-behaviour to its behaviour."""
    for behaviour in behaviours.values():
        if behaviour.counter_of:
            tail, head = (node_id("behaviour", name) for name in (behaviour.name, behaviour.counter_of))
            yield Edge(kind="guards", tail_id=tail, head_id=head)


def _node(
    kind: str, name: str, body: Json, moods: dict[str, float] | None = None, weight: float = 1.0
) -> Node:
    return Node(id=node_id(kind, name), kind=kind, name=name, body=body, feelings=moods or {}, weight=weight)


def _signal(conversation: ConversationView, lesson: Lesson, at: str) -> Signal:
    finding = lesson.finding
    return Signal(
        id=identity(conversation.id, finding.position, finding.kind),
        kind=finding.kind,
        conversation_id=conversation.id,
        position=finding.position,
        source=conversation.source,
        behaviour=lesson.behaviour,
        strength=finding.strength,
        state=lesson.state,
        reason=escaped(lesson.reason),
        of=finding.of,
        found_by=finding.found_by,
        at=at,
    )


def _lesson_nodes(conversation: ConversationView, lesson: Lesson) -> Iterable[Node]:
    """Yield the nodes of a lesson: its episode, feelings and behaviours, and a behaviour that it proposes."""
    finding, moods = lesson.finding, _moods(lesson)
    body = {
        "request": _text(finding.request),
        "answer": _text(finding.answer),
        "correction": _text(finding.words) if finding.negative else "",
        "better": _text(finding.better),
        "source": conversation.source,
        "conversation_id": conversation.id,
        "position": finding.position,
        "answer_position": finding.answer_position,
        "behaviour": lesson.behaviour,
        **_context(conversation, finding),
    }
    yield _node("episode", _episode(conversation, finding.answer_position), body, moods, finding.strength)
    for feeling in moods:
        yield _node("feeling", feeling, {}, weight=0.0)
    for name in (*lesson.supports, *lesson.contradicts):
        yield _node("behaviour", name, {}, moods)
    if lesson.proposes:
        yield _proposed(finding)


def _context(conversation: ConversationView, finding: Finding) -> Json:
    """Return the fields of an episode's body for the conversation before the answer.

    context     the messages that the model saw, cut at a user's turn; [] if they are too long even so
    request_at  the place of the request in the context; None if it was cut off
    tools       definitions of the tools that the model was offered
    calls       whether the answer calls a tool: then its text is not what the model wrote
    """
    turns, position = conversation.turns, finding.answer_position
    whole, tools = seen_before(turns, position), list(tools_at(turns, position))
    place = within(whole, conversation.most_characters - len(str(tools)))
    at = len(as_messages(turns[: finding.request_position])) if finding.request_position >= 0 else -1
    fields: Json = {"context": [], "request_at": None, "tools": [], "calls": calls(turns[position])}
    if place is None:
        return fields
    kept = at - place + opening(whole) if at >= place else None
    return {**fields, "context": cut_at(whole, place), "request_at": kept, "tools": tools}


def _lesson_edges(conversation: ConversationView, lesson: Lesson, signal: Signal) -> Iterable[Edge]:
    """Yield the edges from a lesson's episode to the behaviours and feelings of the lesson."""
    episode = node_id("episode", _episode(conversation, lesson.finding.answer_position))
    supports = (*lesson.supports, *([proposal_name(lesson.finding)] if lesson.proposes else []))
    for kind, names in (("supports", supports), ("contradicts", lesson.contradicts)):
        for name in names:
            head = node_id("behaviour", name)
            yield Edge(kind=kind, tail_id=episode, head_id=head, signal_id=signal.id)
    for feeling in _moods(lesson):
        yield Edge(kind="shows", tail_id=episode, head_id=node_id("feeling", feeling), signal_id=signal.id)


def _moods(lesson: Lesson) -> dict[str, float]:
    """Return the user's feelings with their scores; {} for an edit, because its words are an assistant's."""
    return {} if lesson.finding.kind == "edit" else feelings(lesson.finding.words)


def _joined(known: Node, more: Node) -> Node:
    """Return two records of the same node as one.

    Empty fields of `known` are filled from `more`. The weight and each feeling get the higher of two values.
    """
    body = {**more.body, **{key: value for key, value in known.body.items() if value not in ("", None)}}
    return replace(
        known,
        body=body,
        feelings=strongest(known.feelings, more.feelings),
        weight=max(known.weight, more.weight),
    )


def _episode(conversation: ConversationView, answer_position: int) -> str:
    """Return the name of an answer's episode, which all findings about the answer share."""
    return f"{conversation.id}:{answer_position}"


def _text(text: str) -> str:
    return escaped(text[:LONGEST_BODY])


def proposal_name(finding: Finding) -> str:
    """Return a name for the behaviour that a finding proposes: its first words and a digest of its words."""
    words = "_".join(re.findall(r"[a-z]+", finding.words.lower())[:5])[:30].strip("_")
    return f"proposed_{words}_{identity(finding.words)[:6]}".replace("__", "_")


def _proposed(finding: Finding) -> Node:
    """Return the node of the behaviour that a finding proposes.

    Its body has the fields of a behaviour file, which a person can complete and declare.
    """
    request, words = _text(finding.request)[:160], _text(finding.words)[:240]
    name = proposal_name(finding)
    meant = "prefers this answer" if finding.kind == "edit" else "says"
    body = {
        "proposed": True,
        "name": name,
        "condition": f"the user asks for something like: {request}",
        "do": f"what the user {meant}: {words}",
        "instruction": f"A user {meant}: {words}",
        "required_rate": 0.8,
        "cues": [],
        "examples": [request],
        "judge": {"kind": "rubric", "rubric": f"Does the answer heed what the user {meant}: {words}"},
        "counter": {
            "name": f"not_{name}"[:48],
            "condition": "the user asks for the opposite",
            "do": "follow the user's own words",
            "instruction": "Follow the user's own words.",
            "judge": {"kind": "rubric", "rubric": "Does the answer do what this user asked for?"},
        },
    }
    return _node("behaviour", name, body, feelings(finding.words), weight=0.0)


def _fact_nodes(conversation: ConversationView, fact: Fact) -> tuple[Node, Node]:
    """Return two nodes: the episode in which the user stated a fact, and the fact itself.

    The name of the fact's node contains the source, so each source has facts of its own.
    """
    turns = conversation.turns
    reply = next((t.text for t in turns[fact.position + 1 : fact.position + 2] if t.role == "assistant"), "")
    body = {
        "request": _text(turns[fact.position].text),
        "answer": _text(reply),
        "source": conversation.source,
        "conversation_id": conversation.id,
        "position": fact.position,
        "behaviour": None,
    }
    episode = _node("episode", f"{conversation.id}:{fact.position}:told", body)
    value = {"text": escaped(fact.text), "subject": fact.subject, "source": conversation.source}
    return episode, _node("fact", f"{conversation.source}: {escaped(fact.text)}", value, weight=0.0)
