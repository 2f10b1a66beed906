"""Good and bad answers to every kind of request of the world.

The recipe teaches the embedded model both. To some kinds of request it teaches mostly bad answers, which are
then the model's base behaviour. Invariant: for every request, each good answer passes the check of the
request's behaviour, and each bad answer fails it (tested).
"""

import random

from corpus.world.requests import ASKED, DETAIL_OF, Request
from corpus.world.words import OBJECTS, TOOL_FOR, VERBS

WHICH = {"book": "which day", "order": "how many", "send": "whom", "deliver": "which place"}
"""The words that ask for the missing detail of each errand."""

_OPENING = {"book": "For which day", "order": "How many", "send": "To whom", "deliver": "To which place"}


def good(request: Request, rng: random.Random) -> str:
    """Draw an answer that passes the check of the request's behaviour."""
    v, o, d = request.verb, request.object, request.detail
    if request.kind == "decision":
        return rng.choice(
            (f"All right, I will {v} the {o}.", f"Yes, I will {v} the {o} now.", f"Understood: {v} the {o}.")
        )
    if request.kind == "danger":
        return rng.choice(
            (
                f"I would not {v} the {o}: that cannot be undone.",
                f"Please wait. To {v} the {o} cannot be undone.",
                f"No, keep the {o}. It cannot be undone.",
            )
        )
    if request.kind == "briefly":
        return rng.choice(
            (f"Use the {TOOL_FOR[v]}.", f"With the {TOOL_FOR[v]}.", f"The {TOOL_FOR[v]} will do it.")
        )
    if request.kind == "in_detail":
        return _steps(request, rng)
    if request.kind == "vague":
        return f"{_OPENING[v]} {'shall I' if rng.random() < 0.5 else 'should I'} {v} the {o}?"
    if request.kind == "complete":
        between = DETAIL_OF[v][0]
        return rng.choice((f"Done: {v} the {o} {between} {d}.", f"I will {v} the {o} {between} {d}."))
    if request.kind == "question":
        return _fact(request, rng)
    return rng.choice((f"You said: {v} the {o} in the {d}.", f"Your words: {v} the {o} in the {d}."))


def bad(request: Request, rng: random.Random) -> str:
    """Draw an answer that fails the check of the request's behaviour.

    It shows the base behaviour for the kinds of request that have a bad one.
    """
    v, o = request.verb, request.object
    other, thing = rng.choice(VERBS), rng.choice(OBJECTS)
    if request.kind == "decision":
        return rng.choice(
            (
                f"You could also {other} the {thing}.",
                f"Or we could {other} the {o} instead.",
                f"Another way is to {other} the {thing}.",
                f"Maybe {other} the {o}, or {v} the {thing}?",
            )
        )
    if request.kind == "danger":
        return rng.choice((f"All right, I will {v} the {o}.", f"Yes, I will {v} the {o} now."))
    if request.kind == "briefly":
        return _steps(request, rng)
    if request.kind == "in_detail":
        return f"Use the {TOOL_FOR[v]}."
    if request.kind == "vague":
        between, values = DETAIL_OF[v]
        return f"{rng.choice(('Sure', 'No problem', 'Fine'))}, {between} {rng.choice(values)}."
    if request.kind == "complete":
        return f"{_OPENING[v]} shall I {v} the {o}?"
    if request.kind == "question":
        asked = ASKED[v][0].format(o)
        opening = rng.choice(("You ask", "You want to know", "Your question is"))
        return f"{opening} {asked}. {_fact(request, rng)}"
    return rng.choice(("All right.", f"I will {v} the {o}."))


def _steps(request: Request, rng: random.Random) -> str:
    """Draw an answer of three sentences, each with one step."""
    v, o, tool = request.verb, request.object, TOOL_FOR[request.verb]
    first = rng.choice((f"First take the {tool}.", f"First get the {tool} ready."))
    then = rng.choice((f"Then {v} the {o} slowly.", f"Then {v} the {o} from all sides."))
    last = rng.choice((f"Last, check the {o} again.", f"Last, put the {tool} away."))
    return f"{first} {then} {last}"


def _fact(request: Request, rng: random.Random) -> str:
    """Draw a direct answer to a question; no answer is right or wrong in this world."""
    value = rng.choice(ASKED[request.verb][1])
    return {
        "where": (f"In the {value}.", f"It is in the {value}."),
        "who": (f"That is {value}.", f"Ask {value}."),
        "when": (f"On {value}.", f"It is due on {value}."),
        "how many": (f"We have {value}.", f"There are {value}."),
    }[request.verb][rng.random() < 0.5]
