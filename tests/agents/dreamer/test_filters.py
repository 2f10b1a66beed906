"""Why a request is refused."""

import pytest

from agents.dreamer import filters
from agents.dreamer.filters import Band, band, counts_against, is_foreign, scripts

GREEK = "\u03ba\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1"


def test_a_text_in_another_script_than_its_seeds_is_foreign() -> None:
    latin = scripts(["How are you?", "42!"])
    assert latin == {"LATIN"}
    assert is_foreign(GREEK, latin) and is_foreign(f"Say {GREEK}", latin)
    assert not is_foreign("Na\u00efve caf\u00e9, 42?", latin) and not is_foreign("42 ...", latin)
    assert not is_foreign(f"How does one pronounce and write the letter {GREEK[0]} in a line of text?", latin)
    assert not is_foreign(GREEK, scripts([GREEK]))


def test_real_requests_give_a_band_that_holds_them_and_refuses_both_ends() -> None:
    values = [-3.1, -2.8, -3.4, -2.6, -3.0]
    found = band(values)
    assert found is not None and all(found.reason(value) is None for value in values)
    assert found.reason(-6.0) == filters.UNLIKELY and found.reason(-0.3) == filters.TOO_LIKELY
    assert band(values[:3]) is None
    assert band([-3.0] * 4) == Band(low=-3.75, high=-2.25)


@pytest.mark.parametrize(
    ("reason", "counts"),
    [(None, True), (filters.SEEN, True), (filters.UNLIKELY, True), (filters.not_a_situation("a"), True),
     (filters.ENOUGH, False), (filters.over_cap(5), False)],
)  # fmt: skip
def test_a_form_is_not_blamed_for_requests_that_nobody_needed(reason: str | None, counts: bool) -> None:
    assert counts_against(reason) is counts


def test_neither_an_empty_nor_a_long_text_has_a_requests_length() -> None:
    assert filters.has_length("a" * 400) and not filters.has_length("a" * 401) and not filters.has_length("")
