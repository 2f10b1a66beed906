"""Masks for what names a person: e-mail addresses, numbers of telephones and cards, IBANs, seed phrases.

A mask stays the same for the same value, so that a conversation stays readable: the same address is still the
same one. A mask is a keyed digest, so that nobody can find the value of a mask by trying values.

Invariant: pure, idempotent, linear in the length of the text. Cards and IBANs are masked only if their check
digits are right. This module masks what has a form of its own: names and street addresses are not masked.
"""

import hashlib
import hmac
import re
from collections.abc import Callable

LETTERS = str.maketrans("0123456789abcdef", "ghijklmnopabcdef")
"""Digests are written in letters, because digits would look like numbers of telephones."""
_EMAIL = re.compile(
    r"(?<![\w.%+@/:-])(?!git@)[\w.%+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}\b(?!\()"
)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_CARD = re.compile(r"(?<![\w.,/-])[2-6]\d(?:[ -]?\d){11,17}(?![\w/-]|[.,]\d)")
_PHONE = re.compile(
    r"(?<![\w.+/:-])(?<!\d )(?:"
    r"(?:\+|00)[1-9]\d{0,2}(?:[ ./-]{0,2}\(0?\d{1,4}\))?(?:[ ./-]{0,2}\d){6,12}"
    r"|\(0?\d{2,5}\)[ -]?\d{3,4}(?:[ -]?\d{2,5}){1,3}"
    r"|0[1-9]\d{1,3}[ /-]\d{4,9}(?:[ -]\d{2,4}){0,3}"
    r"|[2-9]\d{2}[-.][2-9]\d{2}[-.]\d{4}"
    r")(?![\w/-]|[.,:]\d)"
)
_SEED = re.compile(
    r"(?i:\b(?:seed|recovery|mnemonic|backup)(?:[ -](?:phrase|words?|seed)){1,2}\b)[^\n\w]{0,6}(?:is|are|:)?"
    r"[\s\"'`:=]{0,6}"
    r"(?P<words>(?:(?:\d{1,2}[.)] ?)?[a-z]{3,8}[ ,\n]{1,3}){11,23}(?:\d{1,2}[.)] ?)?[a-z]{3,8})\b"
)
_CARD_LENGTHS = (
    (r"4", (13, 16, 19)), (r"5[1-5]|2[2-7]", (16,)), (r"3[47]", (15,)), (r"3[068]", (14,)),
    (r"6(?:011|5|4[4-9]|22)", (16, 19)), (r"35", (16,)),
)  # fmt: skip
"""The beginnings of cards' numbers, and how long such a number is."""


def mask(text: str, key: bytes) -> str:
    """Return the text with `[kind:letters]` for whatever names a person.

    Args:
        text: The text.
        key: The home's key; the same value has the same mask under the same key.
    """

    def masked(kind: str, value: str) -> str:
        digest = hmac.new(key, f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()[:8]
        return f"[{kind}:{digest.translate(LETTERS)}]"

    if "@" in text:
        text = _EMAIL.sub(lambda found: masked("email", found[0].lower()), text)
    text = _SEED.sub(lambda found: _in_place(found, masked("seed-phrase", _plain(found["words"]))), text)
    text = _IBAN.sub(_if(is_iban, lambda value: masked("iban", value)), text)
    text = _CARD.sub(_if(is_card, lambda value: masked("card", value)), text)
    return _PHONE.sub(lambda found: masked("phone", _number(found[0])), text)


def _if(is_one: Callable[[str], bool], masked: Callable[[str], str]) -> Callable[[re.Match[str]], str]:
    """Return a replacement that masks a value without its separators, if it is one."""

    def replace(found: re.Match[str]) -> str:
        value = re.sub(r"[ -]", "", found[0])
        return masked(value) if is_one(value) else found[0]

    return replace


def _in_place(found: re.Match[str], masked: str) -> str:
    """Return what was found with a mask in place of the words."""
    start = found.start("words") - found.start()
    return found[0][:start] + masked


def _plain(words: str) -> str:
    """Return the words of a seed phrase, without numbers and separators."""
    return " ".join(re.findall(r"[a-z]+", words))


def _number(text: str) -> str:
    """Return the digits of a telephone number, the same for `+` and `00`, and without a `(0)`."""
    digits = re.sub(r"\D", "", text.replace("(0)", ""))
    return digits.removeprefix("00") if text.startswith("00") else digits


def is_card(digits: str) -> bool:
    """Return whether these digits are a card's number: its beginning, its length, and Luhn's check digit."""
    known = any(re.match(start, digits) and len(digits) in lengths for start, lengths in _CARD_LENGTHS)
    return known and luhn(digits)


def luhn(digits: str) -> bool:
    """Return whether the last digit is Luhn's check digit of the others (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def is_iban(value: str) -> bool:
    """Return whether this is an IBAN: 15 to 34 characters with the right check digits (ISO 13616)."""
    if not 15 <= len(value) <= 34:
        return False
    return int("".join(str(int(letter, 36)) for letter in value[4:] + value[:4])) % 97 == 1
