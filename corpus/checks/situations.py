# ruff: noqa: E501  (tables of words, a language or a word in a row)
"""Situations: kinds of requests for which a rule may hold, or not hold, each with the words that show it.

A behaviour file names a situation (`when = "temperature"`, `unless = "detail"`) in place of a pattern.
Invariant: pure. A request may be in several situations, or in none.
"""

import re

_WORDS = {
    "detail": r"in (?:\w+ )?detail|detailed|step by step|thorough(?:ly)?|at length|in depth|comprehensive(?:ly)?|long (?:answer|version|text)|"
    r"every step|elaborate|ausführlich\w*|im detail|detailliert\w*|schritt für schritt|genau erklär\w*|en détail|détaillée?|pas à pas|"
    r"en detalle|paso a paso|nel dettaglio|passo (?:dopo|a) passo|in detalhe|uitgebreid|详细|詳しく",
    "brief": r"in short|brief(?:ly)?|in (?:one|a) (?:word|sentence|line)|short answer|one sentence|one word|tl;?dr|kurz|knapp|in einem (?:satz|wort)|"
    r"bref|brièvement|en une phrase|breve(?:mente)?|en una frase|in una frase|kort|简短|短く",
    "list": r"lists?|bullets?|bullet points|numbered|table|liste|aufzählung|stichpunkte\w*|tabelle|lista|elenco|tableau|tabla|lijst|列表|箇条書き",
    "prose": r"(?:in|as) (?:plain )?(?:prose|sentences|a paragraph|running text)|without (?:a )?(?:lists?|headings?)|no (?:lists?|headings?)|"
    r"als fließtext|in (?:ganzen )?sätzen|ohne (?:liste|überschrift\w*)|en prose|sans liste",
    "explanation": r"explain|explanation|why|how does|what does|walk me through|comments?|erklär\w*|warum|wieso|expli\w*|pourquoi|por qu[eé]|spiega\w*|perché|为什么|なぜ",
    "code": r"code|function|script|program|regex|query|class|python|javascript|bash|sql|html|css|java|rust|funktion|skript|programm|fonction|función",
    "data": r"json|as data|machine.readable|fields?|keys?|als daten|maschinenlesbar",
    "emoji": r"emojis?|emoticons?|smileys?|smiley faces",
    "apology": r"apolog\w+|sorry|entschuldig\w*|excuse\w*|disculp\w*|scus\w*",
    "praise": r"praise|compliment|what (?:is|was|did i do) (?:good|well|right)|feedback|encourage\w*|lob\w*|kompliment\w*|was (?:ist|war) gut",
    "temperature": r"temperatures?|degrees|how (?:hot|warm|cold)|oven|fever|boil\w*|freez\w*|weather|temperatur\w*|grad|wie (?:heiß|warm|kalt)|ofen|fieber|"
    r"température|degrés|temperatura|grados|gradi",
    "fahrenheit": r"fahrenheit",
    "celsius": r"celsius",
    "measure": r"how (?:far|long|tall|heavy|high|deep|wide|big|much does .{1,40} weigh)|distance|height|length|weight|weigh|recipe|ingredients|size|"
    r"wie (?:weit|lang|groß|schwer|hoch|tief|breit)|entfernung|gewicht|rezept|zutaten|distancia|poids|taille",
    "metric": r"metric|kilomet(?:re|er)s?|kilograms?|centimet(?:re|er)s?|metrisch\w*",
    "imperial": r"imperial|miles|inches|feet|pounds|ounces|cups|zoll|meilen",
    "price": r"prices?|costs?|how much (?:is|are|do|does|should)|expensive|cheap|budget|pay|worth|preis\w*|kosten|kostet|teuer|billig|prix|coûte|precio|cuesta|prezzo|costa",
    "euros": r"euros?|€|eur",
    "dollars": r"dollars?|\$|usd",
    "sterling": r"sterling|£|gbp|quid",
    "date": r"when (?:was|is|did|were|will)|what day|dates?|deadline|birthday|anniversary|wann|datum|geburtstag|quand|cuándo|quando",
    "date_style": r"iso|american (?:style|format)|german (?:style|format)|british (?:style|format)|format|schreibweise",
    "wording": r"begin with|start with|use the word|the word|the words|the phrase|what does .{1,40} mean|say that|call it|define|"
    r"beginne? mit|fang\w* mit|das wort|den ausdruck|was bedeutet|sag",
    "english": r"in english|into english|auf englisch|ins englische|en anglais|en inglés|in inglese",
    "german": r"in german|into german|auf deutsch|ins deutsche|en allemand|en alemán|in tedesco",
    "french": r"in french|into french|auf französisch|ins französische|en français|en francés|in francese",
    "spanish": r"in spanish|into spanish|auf spanisch|ins spanische|en espagnol|en español|in spagnolo",
    "italian": r"in italian|into italian|auf italienisch|ins italienische|en italien|en italiano|in italiano",
    "american": r"american|u\.?s\.? (?:english|spelling)",
    "british": r"british|uk (?:english|spelling)",
    "formal": r"formal(?:ly)?|official|authority|customer|application|förmlich|formell|behörde|amt|kund\w+|bewerbung|formel(?:le)?|client",
    "casual": r"casual(?:ly)?|informal|friend|buddy|locker|freund\w*|kumpel|geschwister|ami|copain|copine",
    "own_words": r"in your own words|paraphrase|without quot\w+|do not quote|in eigenen worten|ohne zitat\w*|reformule",
}
_COMPILED = {
    name: re.compile(rf"(?<![a-z])(?:{words})(?![a-z])", re.IGNORECASE) for name, words in _WORDS.items()
}
_CUTS = re.compile(r"[\"\u201c\u201e\u00ab\n:]")
GIVEN_WORDS = 20
"""Fewest words of a request that give a text to work on."""
VAGUE_WORDS = 6
"""Most words of a request that leaves out what is needed."""
SITUATIONS = (*_WORDS, "text", "vague")
"""The names of all situations."""


def is_in(request: str, situation: str) -> bool:
    """Return whether a request is in a situation.

    Most situations are shown by words. `text` is a request that gives a text to work on, and `vague` one that
    is too short to say what is needed.
    """
    if situation == "text":
        return bool(_CUTS.search(request)) and len(request.split()) >= GIVEN_WORDS
    if situation == "vague":
        return 0 < len(request.split()) <= VAGUE_WORDS
    return _COMPILED[situation].search(request) is not None
