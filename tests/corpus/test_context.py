"""The messages that a model saw, made of turns, and the places at which they may be cut."""

from dataclasses import replace

from corpus.context import as_messages, beginning_of, cut_at, cuts, last_request, seen_before, within
from corpus.conversation import Structure, ToolCall, Turn, chain, structure_of, tools_at
from corpus.json_edge import to_json

CALL = ToolCall(name="look", arguments='{"at": 1}', id="c1")
CALLED = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
TOOL = {"type": "function", "function": {"name": "look"}}


def turn(role: str, text: str, structure: Structure | None = None) -> Turn:
    return Turn(role=role, text=text, line=1, structure=structure)


def part(text: str, *calls: ToolCall, answer: str = "m1") -> Turn:
    """Return a part of an answer."""
    return turn("assistant", text, Structure(content=text, calls=calls, answer=answer))


RESULT = turn("tool", "[no output]", Structure(content="", call_id="c1"))
TALK = (
    turn("system", "Be brief."),
    turn("user", "Where?"),
    part("Let me look."),
    part("", CALL),
    RESULT,
    part("Here.", answer="m2"),
    turn("user", "Thanks."),
)


def test_the_parts_of_an_answer_are_one_message_with_its_calls() -> None:
    assert as_messages(TALK) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "Let me look.", "tool_calls": [CALLED]},
        {"role": "tool", "content": "", "tool_call_id": "c1"},
        {"role": "assistant", "content": "Here."},
        {"role": "user", "content": "Thanks."},
    ]


def test_a_result_between_two_calls_of_one_answer_comes_after_the_answer() -> None:
    second = replace(CALL, id="c2")
    between = (turn("user", "Where?"), part("", CALL), RESULT, part("", second), RESULT)
    roles = [message["role"] for message in as_messages(between)]
    assert roles == ["user", "assistant", "tool", "tool"]
    assert [call["id"] for call in as_messages(between)[1]["tool_calls"]] == ["c1", "c2"]


def test_answers_without_an_id_stay_apart() -> None:
    assert len(as_messages([turn("assistant", "a"), turn("assistant", "b"), part("c"), part("d")])) == 3


def test_the_model_saw_nothing_of_the_answer_that_it_began() -> None:
    assert [beginning_of(TALK, place) for place in (2, 3, 5)] == [2, 2, 5]
    assert [message["role"] for message in seen_before(TALK, 3)] == ["system", "user"]
    assert [message["role"] for message in seen_before(TALK, 5)] == ["system", "user", "assistant", "tool"]


def test_messages_are_cut_at_users_turns_and_the_system_prompt_stays() -> None:
    messages = as_messages(TALK)
    assert cuts(messages) == [1, 5]
    assert cut_at(messages, 5) == [messages[0], messages[5]]
    assert (cuts([]), cuts(messages[:1])) == ([], [])


def test_as_many_turns_stay_as_fit_into_the_characters() -> None:
    messages = as_messages(TALK)
    sizes = [len(str(to_json(message))) for message in messages]
    assert (within(messages, 10_000), within(messages, sizes[0] + sizes[5] + 10), within(messages, 10)) == (
        1,
        5,
        None,
    )


def test_the_request_is_the_users_last_message_also_before_a_result() -> None:
    assert last_request(as_messages(TALK[:5])) == "Where?"
    assert last_request([]) == ""


def test_tools_hold_until_a_turn_offers_others() -> None:
    turns = [replace(turn("user", "a"), tools=tools) for tools in (None, (TOOL,), None, ())]
    assert [tools_at(turns, place) for place in range(4)] == [(), (TOOL,), (TOOL,), ()]


def test_a_structure_is_the_same_after_a_round_through_json() -> None:
    structure = Structure(content="", calls=(CALL,), answer="m1")
    assert structure_of(to_json(structure)) == structure and structure_of(None) is None


def test_the_structure_of_a_turn_is_not_in_its_digest() -> None:
    plain = tuple(replace(one, structure=None) for one in TALK)
    assert chain("ada", TALK) == chain("ada", plain)
