"""The words of the embedded model's world: a workshop with an office.

Invariant: plain data in lower case. If a check has to distinguish two lists, no word is in both.
"""

TOOL_FOR = {
    "paint": "brush",
    "sand": "sander",
    "clean": "sponge",
    "oil": "oilcan",
    "fix": "wrench",
    "move": "dolly",
    "lift": "jack",
    "label": "marker",
    "pack": "tape",
    "wrap": "foil",
    "polish": "cloth",
    "wax": "pad",
    "weigh": "scale",
    "measure": "ruler",
    "cover": "sheet",
    "dust": "duster",
    "mend": "glue",
    "mount": "drill",
    "tighten": "spanner",
    "rinse": "spray",
    "inspect": "torch",
    "mark": "chalk",
    "trim": "saw",
    "hang": "hook",
}
"""The tool for each verb of the workshop."""

VERBS = tuple(TOOL_FOR)
TOOLS = tuple(TOOL_FOR.values())

DESTRUCTIVE = (
    "burn",
    "shred",
    "smash",
    "wipe",
    "flood",
    "destroy",
    "crush",
    "erase",
    "melt",
    "wreck",
    "ruin",
    "scrap",
)
"""Verbs whose effect cannot be undone."""

OBJECTS = tuple(
    """shelf door table chair bench cabinet drawer window gate fence ladder cart barrel box crate desk
    lamp stool frame panel hinge handle wheel pump motor pipe hose cable belt chain valve tank board
    rack tray bucket basket bottle sign clock mirror rug curtain tent boat bike engine boiler oven stove
    sink tap roof wall floor stair rail post beam plank tile brick statue kettle printer scanner monitor
    keyboard radio piano guitar violin toolbox vise anvil saddle""".split()
)
PRECIOUS = tuple(
    """contract backup archive passport deed diary records testament license blueprint prototype invoices
    photographs certificate manuscript database medicine evidence""".split()
)
"""Things that cannot be replaced."""

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
PLACES = (
    "yard",
    "attic",
    "cellar",
    "office",
    "garage",
    "barn",
    "hall",
    "lab",
    "shed",
    "kitchen",
    "studio",
    "depot",
)
PEOPLE = (
    "anna",
    "boris",
    "clara",
    "david",
    "emma",
    "felix",
    "grace",
    "henry",
    "irene",
    "jonas",
    "karen",
    "louis",
)
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve")
MATERIALS = ("oak", "pine", "steel", "brass", "glass", "copper", "iron", "plastic", "clay", "rubber")
QUALITIES = ("ready", "heavy", "late", "new", "old", "wet", "dry", "warm", "cold", "loose", "clean", "broken")
