"""The output of the commands on lessons."""

from rich.table import Table

from loop.cli.show.console import out
from loop.lessons.results import Decided, Lesson, Lessons

MOST_WORDS = 70
"""Most characters of a complaint in a table."""


def listed(report: Lessons) -> None:
    """Print the proposals as a table, and what to do with them."""
    if report.lessons:
        table = Table("n", "rule", "judged by", "sure", "said by", "for example", "state")
        for one in report.lessons:
            said = f"{one.people} in {one.conversations}"
            example = one.quotes[0].words if one.quotes else ""
            judge = one.check or "nothing yet"
            rule = one.do if one.judged else "(no check fits)"
            cut = example[:MOST_WORDS] + ("..." if len(example) > MOST_WORDS else "")
            table.add_row(str(one.number), rule, judge, f"{one.sure:.2f}", said, cut, one.state)
        out.print(table)
        out.print(
            "nightschool lessons show N | accept N [--edit] | reject N --because TEXT | later N | review"
        )
    else:
        out.print("no lessons are proposed")
    if report.waiting:
        out.print(f"{report.waiting} more rest on too few conversations: `nightschool lessons --all`")


def one(lesson: Lesson, *, with_file: bool = True) -> None:
    """Print one proposal: what it says, what it rests on, and the file that it would become."""
    out.print(f"proposal {lesson.number} ({lesson.state}{', ' + lesson.reason if lesson.reason else ''})")
    out.print(f"  when      {lesson.condition}")
    out.print(f"  do        {lesson.do}")
    if lesson.counter:
        out.print(f"  not when  {lesson.counter}")
    out.print(f"  judge     {lesson.judge}")
    people = "1 person" if lesson.people == 1 else f"{lesson.people} people"
    places = "1 conversation" if lesson.conversations == 1 else f"{lesson.conversations} conversations"
    out.print(f"  sure      {lesson.sure:.2f}: {people} in {places}")
    if lesson.cost:
        minutes = "" if lesson.cost.minutes is None else f", about {lesson.cost.minutes:.0f} minutes"
        out.print(f"  cost      about {lesson.cost.tokens} tokens in one night{minutes}")
    for other in lesson.contradicts:
        out.print(f"  against   {other}: accept at most one of the two")
    for name in lesson.taught:
        out.print(f"  known     behaviour {name} teaches this already")
    if lesson.behaviour:
        out.print(f"  became    behaviour {lesson.behaviour}")
    for quote in lesson.quotes:
        out.print(f"  {quote.path}:{quote.line}  {quote.source}: {quote.words}")
    if lesson.draft and with_file:
        out.print()
        for line in lesson.draft.splitlines():
            out.print(line, soft_wrap=True)


def decided(report: Decided) -> None:
    """Print a decision, and what follows from it."""
    if report.file is None:
        out.print(f"proposal {report.number}: {report.state}")
        return
    out.print(f"behaviour {report.behaviour}: {report.file}")
    out.print(f"complaints that the next night learns from: {report.lessons} (`nightschool night`)")
