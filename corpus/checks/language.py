# ruff: noqa: E501  (tables of words, a language or a word in a row)
"""Checks of an answer's language: which one, how it is spelt, and how it addresses the reader.

A language in Latin script is recognised by its frequent short words, another by its script.
"""

import re

FEWEST = 2
"""Fewest frequent words that show a language."""
SCRIPT_SHARE = 0.3
"""Smallest share of the letters that shows a language of another script, beside names in Latin script."""
FUNCTION_WORDS = {
    "de": "der die das und ist nicht ein eine einen mit auf von zu den dem ich du sie es man kann wird hat für im bei oder auch wie sich aus nach sind wenn",
    "en": "the and is are of to in that it you a an with on for be this was i can have as from or when your not at by if will",
    "es": "el la los las y es un una de que en con por para no se su del al son más puedo tiene como lo pero está muy",
    "fr": "le la les et est un une de que en dans avec pour pas ne qui je tu vous il elle des du sur au ce sont plus mais",
    "it": "il lo la gli e è un una di che in con per non si della del sono al le i come mi ha uno nel più ma anche",
    "nl": "de het een en is van in dat die niet op met voor zijn te ik je er aan om ook als bij maar wordt naar",
    "pt": "o a os as e é um uma de que em com por para não se do da no na são mais como mas você ao seu",
}
"""Frequent short words of each language in Latin script."""
_SCRIPTS = {
    "ja": re.compile(r"[\u3040-\u30ff]"),
    "zh": re.compile(r"[\u4e00-\u9fff]"),
    "ko": re.compile(r"[\uac00-\ud7af]"),
    "ru": re.compile(r"[\u0400-\u04ff]"),
    "ar": re.compile(r"[\u0600-\u06ff]"),
}
LANGUAGES = (*FUNCTION_WORDS, *_SCRIPTS)
"""The languages that can be recognised, as ISO 639-1 codes."""
_KNOWN = {code: frozenset(words.split()) for code, words in FUNCTION_WORDS.items()}
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`]*`", re.DOTALL)


def language_of(text: str) -> str:
    """Return the code of a text's language; "" if its words do not show one. Code in it does not count."""
    plain = _CODE.sub(" ", text)
    letters = sum(letter.isalpha() for letter in plain)
    for code, script in _SCRIPTS.items():
        if letters and len(script.findall(plain)) >= SCRIPT_SHARE * letters:
            return code
    spoken = re.findall(r"[^\W\d_]+", plain.lower())
    counts = {code: sum(word in known for word in spoken) for code, known in _KNOWN.items()}
    best = max(counts.values())
    first = [code for code, count in counts.items() if count == best]
    return first[0] if best >= FEWEST and len(first) == 1 else ""


def language(answer: str, *, code: str) -> str:
    """Answer in this language: "auf Deutsch bitte", "in English"."""
    found = language_of(answer)
    return "" if found == code else f"is in {found or 'no language that can be told'}, not in {code}"


_BRITISH = (
    "colour favour flavour honour humour labour neighbour behaviour harbour rumour odour vapour savoury favourite "
    "centre metre litre theatre fibre kilometre centimetre grey cheque tyre plough pyjamas aluminium moustache jewellery "
    "defence licence offence catalogue dialogue analyse catalyse paralyse travelling travelled cancelled modelling labelled "
    "organise realise recognise apologise summarise optimise prioritise minimise maximise customise emphasise "
    "organisation programme enrol fulfil skilful mum maths"
)
_AMERICAN = (
    "color favor flavor honor humor labor neighbor behavior harbor rumor odor vapor savory favorite "
    "center meter liter theater fiber kilometer centimeter gray check tire plow pajamas aluminum mustache jewelry "
    "defense license offense catalog dialog analyze catalyze paralyze traveling traveled canceled modeling labeled "
    "organize realize recognize apologize summarize optimize prioritize minimize maximize customize emphasize "
    "organization program enroll fulfill skillful mom math"
)
_SHARED = frozenset("check tire meter program dialog license catalog labor".split())
"""American spellings that are words of British English too; they show nothing."""
_VARIETIES = {"british": _BRITISH, "american": _AMERICAN}
VARIETIES = tuple(_VARIETIES)


def _spelt(variety: str) -> frozenset[str]:
    words = set(_VARIETIES[variety].split()) - _SHARED
    return frozenset(
        words | {f"{word}s" for word in words} | {f"{word}d" for word in words if word[-1] == "e"}
    )


_SPELT = {variety: _spelt(variety) for variety in VARIETIES}


def spelling(answer: str, *, variety: str) -> str:
    """Spell English this way: "British spelling, please"."""
    other = _SPELT[next(name for name in VARIETIES if name != variety)]
    wrong = [word for word in re.findall(r"[a-z]+", answer.lower()) if word in other]
    return f"spells {wrong[0]!r}, which is not {variety}" if wrong else ""


_ADDRESS = {
    "du": re.compile(r"\b(?:du|dich|dir|dein(?:e[mnrs]?)?)\b", re.IGNORECASE),
    "sie": re.compile(r"(?<=[a-zäöüß,;:0-9)] )(?:Sie|Ihnen|Ihr(?:e[mnrs]?)?)\b"),
    "tu": re.compile(r"\b(?:tu|te|toi|ton|ta|tes|t['\u2019]\w+)\b", re.IGNORECASE),
    "vous": re.compile(r"\b(?:vous|votre|vos)\b", re.IGNORECASE),
}
_RIVALS = {"du": "sie", "sie": "du", "tu": "vous", "vous": "tu"}
FORMS = tuple(_ADDRESS)
"""The forms of address that can be recognised."""


def form_of_address(answer: str, *, form: str) -> str:
    """Address me like this: du or Sie, tu or vous."""
    found = _ADDRESS[_RIVALS[form]].search(answer)
    return f"says {found.group()!r}, which is not the form {form}" if found else ""
