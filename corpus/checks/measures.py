"""Checks of units and dates."""

import re

_NUMBER = r"\d(?:[\d.,/]*\d)?\s*"
_UNITS = {
    "celsius": re.compile(_NUMBER + r"(?:°\s*C\b|℃|C\b)|\bcelsius\b", re.IGNORECASE),
    "fahrenheit": re.compile(_NUMBER + r"(?:°\s*F\b|℉|F\b)|\bfahrenheit\b", re.IGNORECASE),
    "metric": re.compile(
        _NUMBER
        + r"-?(?:mm|cm|km|kg|g|ml|m|l|km/h|°\s*C|(?:milli|centi|kilo)?(?:met(?:re|er)|gram|lit(?:re|er))s?|"
        r"gramm|kilo(?:gramm)?s?|zentimeter|kilometer)\b",
        re.IGNORECASE,
    ),
    "imperial": re.compile(
        _NUMBER
        + r"-?(?:in|inch(?:es)?|ft|foot|feet|yd|yards?|miles?|mi|mph|oz|ounces?|lbs?|pounds?|cups?|gallons?|"
        r"pints?|quarts?|°\s*F|Zoll|Fuß|Meilen?|Pfund|Unzen?)\b",
        re.IGNORECASE,
    ),
    "euros": re.compile(r"€|\bEUR\b|\beuros?\b", re.IGNORECASE),
    "dollars": re.compile(r"\$|\bUSD\b|\bdollars?\b", re.IGNORECASE),
    "pounds": re.compile(r"£|\bGBP\b|\bpounds sterling\b|" + _NUMBER + r"(?:pounds|quid)\b", re.IGNORECASE),
}
RIVALS = {
    "celsius": ("fahrenheit",),
    "fahrenheit": ("celsius",),
    "metric": ("imperial",),
    "imperial": ("metric",),
    "euros": ("dollars", "pounds"),
    "dollars": ("euros", "pounds"),
    "pounds": ("euros", "dollars"),
}
SYSTEMS = tuple(_UNITS)


def units(answer: str, *, system: str) -> str:
    """Use these units, and not the others: "in Celsius", "metric please", "Preise in Euro"."""
    for rival in RIVALS[system]:
        if found := _UNITS[rival].search(answer):
            return f"has {found.group().strip()!r}, which is not in {system}"
    return "" if _UNITS[system].search(answer) else f"gives nothing in {system}"


_MONTHS = (
    r"(?:jan(?:uary|uar)?|feb(?:ruary|ruar)?|mar(?:ch)?|märz|apr(?:il)?|may|mai|june?|juni|july?|juli|aug(?:ust)?|"
    r"sept?(?:ember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)\.?"
)
_DATES = {
    "iso": re.compile(r"\b\d{4}-\d{2}-\d{2}\b"),
    "dotted": re.compile(r"\b\d{1,2}\.\s?\d{1,2}\.\s?(?:\d{4}|\d{2})\b"),
    "day_slash": re.compile(r"\b(?:1[3-9]|2\d|3[01])/\d{1,2}/(?:\d{4}|\d{2})\b"),
    "month_slash": re.compile(r"\b\d{1,2}/(?:1[3-9]|2\d|3[01])/(?:\d{4}|\d{2})\b"),
    "day_month": re.compile(rf"\b\d{{1,2}}(?:st|nd|rd|th|\.)?\s(?:of\s)?{_MONTHS}\b", re.IGNORECASE),
    "month_day": re.compile(rf"\b{_MONTHS}\s\d{{1,2}}(?:st|nd|rd|th)?\b(?!\d|:)", re.IGNORECASE),
}
FORMATS = tuple(_DATES)
"""Ways to write a date: 2026-05-31, 31.05.2026, 31/05/2026, 05/31/2026, 31 May 2026, May 31, 2026."""


def date_format(answer: str, *, format: str) -> str:
    """Write dates this way; an answer without a date is right too."""
    for other, pattern in _DATES.items():
        if other != format and (found := pattern.search(answer)):
            return f"writes {found.group()!r}, which is not {format}"
    return ""
