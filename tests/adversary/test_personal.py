"""What names a person is masked where a home asks for it, alike for the same value, stored text too."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from corpus.conversation import Conversation, Turn
from corpus.scrub.personal import is_card, is_iban, luhn, mask
from loop.capture.exchange import ChatRequest, as_line
from store.conversations import conversations, privacy, rescrub
from store.ledger import meta, schema
from store.ledger.db import Ledger, database_url
from store.ledger.records import Node, save
from store.nights import history

KEY = b"k" * 32
PERSONAL = {
    "email": ["Anna.Meier+x@example.co.uk", "anna.meier+x@EXAMPLE.co.uk"],
    "phone": ["+49 30 1234567", "0049 (0)30 123 45 67", "+49-30-1234567"],
    "card": ["4111 1111 1111 1111", "4111-1111-1111-1111", "4111111111111111"],
    "iban": ["GB82 WEST 1234 5698 7654 32", "GB82WEST12345698765432"],
}
INNOCENT = (
    "version 1.2.3.4 of 2026-12-01 16:15:00 at 192.168.0.10",
    "1699999999999 and 4111111111111112, of 3.14159265358979",
    "isbn 978-3-16-148410-0, doi 10.1000/182, 550e8400-e29b-41d4-a716-446655440000",
    "git clone git@github.com:anna/repo.git, @decorator.call(x), a@b, user@localhost",
    "DE00 3704 0044 0532 0130 00 has a wrong check digit, and 0123456789 no form",
    "in 2019 100000 people; 12 34 56 78 90 12 34; 000 123456",
)


@pytest.mark.parametrize("kind", PERSONAL)
def test_the_same_value_has_the_same_mask_however_it_is_written(kind: str) -> None:
    masked = {mask(f"see {value}, please", KEY) for value in PERSONAL[kind]}
    assert len(masked) == 1, masked
    assert masked.pop().startswith(f"see [{kind}:")
    other = mask(f"see {PERSONAL[kind][0]}, please", b"another key")
    assert other not in masked and not any(value in other for value in PERSONAL[kind])


def test_an_announced_seed_phrase_is_masked() -> None:
    words = "abandon ability able about above absent absorb abstract absurd abuse access accident"
    for text in (f"My seed phrase is: {words}", f"recovery phrase\n{words}", f'mnemonic phrase: "{words}"'):
        assert words not in mask(text, KEY) and "[seed-phrase:" in mask(text, KEY)
    assert mask(words, KEY) == words


@pytest.mark.parametrize("text", INNOCENT)
def test_what_names_nobody_stays(text: str) -> None:
    assert mask(text, KEY) == text


def test_check_digits_decide() -> None:
    assert luhn("79927398713") and not luhn("79927398710")
    assert is_card("378282246310005") and not is_card("4111111111111112") and not is_card("1234567812345670")
    assert is_iban("DE89370400440532013000") and not is_iban("DE89370400440532013001")


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from("0123456789+-() ./@abcAB.com:\n"), max_size=120))
def test_masking_twice_equals_masking_once(text: str) -> None:
    once = mask(text, KEY)
    assert mask(once, KEY) == once


# ---------------------------------------------------------------- in a ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(database_url(tmp_path))
    with opened.writing() as connection:
        history.add_base(connection, "0" * 64, "weights")
    yield opened
    opened.close()


def talk(*texts: str, source: str = "", key: str = "", session: str = "") -> Conversation:
    turns = tuple(
        Turn(role=("system", "user", "assistant")[n % 3], text=text, line=1, key=f"{key}{n}" if key else "")
        for n, text in enumerate(texts)
    )
    return Conversation(source=source, format="openai", turns=turns, key=key, session=session)


def texts_of(connection: Connection) -> str:
    """Return everything that the tables of conversations, turns and nodes say."""
    tables = (schema.conversations, schema.turns, schema.nodes)
    return json.dumps([list(map(str, row)) for t in tables for row in connection.execute(select(t))])


def scrub_all(ledger: Ledger) -> int:
    """Scrub in steps, each in a transaction of its own as after a kill; return their number."""
    steps = 1
    while ledger_step(ledger):
        steps += 1
    return steps


def ledger_step(ledger: Ledger) -> bool:
    with ledger.writing() as connection:
        return rescrub.step(connection)


SAID = ("You help.", "Mail anna@example.com.", "I wrote to anna@example.com.", "", "Call +49 30 1234567.")
TALKS = (
    talk(*SAID),
    talk(*SAID, source="anna@example.com"),
    talk(*SAID, session="s1"),
    talk(*SAID, source="boris", key="k1"),
)


@pytest.mark.parametrize("said", TALKS, ids=["unnamed", "named", "session", "keyed"])
def test_a_home_that_masks_stores_no_address(ledger: Ledger, said: Conversation) -> None:
    with ledger.writing() as connection:
        privacy.set_masking(connection, "mask")
        added = conversations.add(connection, said, "/a.jsonl")
        assert "anna@example.com" not in texts_of(connection) and "1234567" not in texts_of(connection)
        assert conversations.add(connection, said, "/a.jsonl").known
        assert conversations.find(connection, said) == added.conversation_id or said.key


@pytest.mark.parametrize("said", TALKS, ids=["unnamed", "named", "session", "keyed"])
def test_what_is_stored_is_masked_when_a_home_begins_to_and_is_still_recognised(
    ledger: Ledger, said: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescrub, "ROWS", 1)
    with ledger.writing() as connection:
        conversations.add(connection, said, "/a.jsonl")
        conversations.add(connection, talk("x", "Another one."), "/a.jsonl")
        body = {"request": "Mail anna@example.com", "context": [{"content": "+49 30 1234567"}]}
        save(connection, [Node(id="e1", kind="episode", name="c:1", body=body)])
        assert not rescrub.is_due(connection) and "anna@example.com" in texts_of(connection)
        privacy.set_masking(connection, "mask")
        assert rescrub.is_due(connection)
    assert scrub_all(ledger) > 5
    with ledger.writing() as connection:
        kept = texts_of(connection)
        assert "anna@example.com" not in kept and "1234567" not in kept
        assert not rescrub.is_due(connection)
        assert conversations.add(connection, said, "/a.jsonl").known


def test_scrubbing_goes_on_where_it_was_and_begins_anew_for_other_rules(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        conversations.add(connection, talk("x", "Mail anna@example.com."), "/a.jsonl")
        privacy.set_masking(connection, "mask")
        rescrub.step(connection)
        place = json.loads(meta.get(connection, rescrub.PLACE))
        assert place[:2] == ["3:mask", 1]
        privacy.set_masking(connection, "keep")
        rescrub.step(connection)
        assert json.loads(meta.get(connection, rescrub.PLACE))[:2] == ["3:keep", 1]


def test_a_captured_line_is_masked_before_it_is_written(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        privacy.set_masking(connection, "mask")
        clean = privacy.cleaner(connection)
    asked = Turn(role="user", text="Mail anna@example.com", line=0)
    request = ChatRequest(turns=(asked,), user="a@example.com")
    answer = Turn(role="assistant", text="Done: anna@example.com", line=0)
    line = as_line(request, answer, receipt="r", source="s", session="", at=datetime.now(UTC), clean=clean)
    assert isinstance(line, bytes) and b"example.com" not in line and line.count(b"[email:") == 3
