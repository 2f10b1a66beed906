"""Generate checks.md, commands.md, configuration.md and logs.md of docs/reference/ from the program.

    make docs                            write the pages
    python docs/generate.py --check      exit with 1 if one of them is out of date

Invariant: a generated page holds what the program says of itself (help texts, the docstrings of the settings)
and the introductions below, nothing else. tests/test_docs.py fails when a page differs from what this makes.
"""

import ast
import dataclasses
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).parent / "reference"
GENERATED = "<!-- Written by docs/generate.py (`make docs`): change the program, not this page. -->"

COMMANDS = """\
# Commands

{generated}

Two options may stand anywhere in a command line:

| option | effect |
|---|---|
| `--home DIR` | Use this home. Without it: `NIGHTSCHOOL_HOME`, else `~/.local/share/nightschool`. |
| `--json` | Print one JSON object to stdout and nothing else. Progress and messages go to stderr. |

Every command works whether a service runs or not: while one holds the home, a command asks it over its
socket; without one, the command does the work itself. `ask`, `night`, `behaviours measure`,
`checkpoints merge` and most `readout` commands then start the model for themselves, which takes some
seconds; `ingest` only reads, and the next `night` or `run` finds the lessons. Tables on a terminal are cut
to fit; `--json` shows ids and texts in full. All commands share the [exit codes](exit-codes.md).

{commands}
"""

CONFIGURATION = """\
# Configuration

{generated}

The configuration is `config.toml` in the home, with one TOML table for each part before the dot. The
environment overrides it: `NIGHTSCHOOL_SCHEDULE__IDLE_MINUTES=5`. An unknown key, a bad value or a misspelt
variable stops the start. The service reads the configuration when it starts; `nightschool config` prints
what is in effect.

{keys}
"""


LOGS = """\
# Logs

{generated}

The command `ingest` reads conversations from files and folders, and with `--preview` it only shows what
it would read, without a home and without storing anything: conversations, turns,
ratings, edits, the signals in them, what is set aside and why, what is skipped and why. The format of a
file is recognised from its first {sample} records; `--format` overrides that.

A log is JSON: one object a line, one array of objects, or one object, pretty-printed or not; also an object
that only wraps the list of conversations. It may be compressed ({packings}) or lie in a `.zip`, and may be
UTF-8, UTF-16 or Latin-1. What cannot be read is named with its line and the reason.

Also read are the SQLite databases of Open WebUI, `llm`, OpenCode and Cursor, and the chat history of Aider,
which is a text. A database is opened read-only; while its program has it open, a copy is read. A row of a
table is a record like a line, and its number is reported as the line.

**Ratings.** A thumb, a word or a fraction such as `4/5` is a rating by itself. A bare number is not: 1 is
the best of thumbs and the worst of stars. Its scale is found from all numbers of the file under that name,
or given with `--ratings 1..5`. A number whose scale does not show, and a word that is no known rating,
leave the answer without a rating and are named.

**Whose words.** A turn of the user holds what a person typed. Reminders, hooks, the editor's state,
summaries and the results of tools are nobody's words; the model's thoughts are no part of its answer. Of a
session with branches, the one that is live is read.

## Formats

| `--format` | what writes it | seen |
|---|---|---|
{formats}

## Samples

Each of these is a whole file, as short as it can be.

{samples}
"""


CHECKS = """\
# Checks

{generated}

A [behaviour file](../how-to/own-behaviours.md) names a check of this catalogue, and needs no pattern:

```toml
[judge]
kind = "check"
check = "max_words"
parameters = {{ most = 30 }}
unless = "detail"
```

| key | meaning |
|---|---|
| `check` | the name of the check |
| `parameters` | its parameters; those in brackets below may be left out |
| `when` | the situation that a request has to be in; any request, if left out |
| `unless` | the situation that a request must not be in |
| `holds` | `false` for a behaviour whose good answers do not pass the check; `true` if left out |

## The catalogue

The last column is the natural counter-behaviour: when the rule does not hold, and what holds then.

| check | parameters | meaning | unless |
|---|---|---|---|
{checks}

## The situations

A situation is recognised by words in several languages (`corpus/checks/situations.py`): {situations}.
`text` is a request that brings a text to work on, `vague` one of at most {vague} words.
"""


def checks_page() -> str:
    """Return the text of docs/reference/checks.md."""
    import tomllib

    from corpus.checks import catalogue, situations
    from corpus.checks.sides import sides

    folder = Path(catalogue.__file__).parent / "examples"
    rows = []
    for name, check in sorted(catalogue.CATALOGUE.items()):
        example = tomllib.loads((folder / f"{name}.toml").read_text())["case"][0].get("parameters", {})
        counter = sides(name, example).counter
        parameters = ", ".join(
            f"[`{key}`]" if one.optional else f"`{key}` ({', '.join(one.choices) or one.kind})"
            for key, one in check.parameters.items()
        )
        meaning = " ".join((check.function.__doc__ or "").split())
        unless = _cell(f"{counter.condition}: {counter.do}")
        rows.append(f"| `{name}` | {parameters} | {_cell(meaning)} | {unless} |")
    return CHECKS.format(
        generated=GENERATED, checks="\n".join(rows), vague=situations.VAGUE_WORDS,
        situations=", ".join(f"`{name}`" for name in sorted(situations.SITUATIONS)),
    )  # fmt: skip


def logs_page() -> str:
    """Return the text of docs/reference/logs.md."""
    from agents.ingest.sources import PACKINGS
    from corpus.formats.detect import SAMPLE
    from corpus.formats.registry import FORMATS

    formats = sorted(FORMATS, key=lambda format: format.name)
    rows = [
        f"| `{form.name}` | [{_cell(form.title)}]({form.link}) | {_cell(form.seen)} |" for form in formats
    ]
    folder = Path(__file__).parent.parent / "corpus" / "formats" / "samples"
    samples = []
    for form in formats:
        file = folder / f"{form.name}.jsonl"
        samples.append(f"### {form.name}\n\n{textwrap.indent(file.read_text().rstrip(), '    ')}")
    return LOGS.format(
        generated=GENERATED, sample=SAMPLE, packings=", ".join(PACKINGS),
        formats="\n".join(rows), samples="\n\n".join(samples),
    )  # fmt: skip


def command_line() -> Any:
    """Return the program's whole command line, as Typer hands it to click."""
    from typer.main import get_command

    from loop.cli.app import app

    return get_command(app)


def commands(
    group: Any = None, path: tuple[str, ...] = ("nightschool",)
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command with its words: single commands by name, then each group with what is in it."""
    group = group or command_line()
    for name, command in sorted(
        group.commands.items(), key=lambda item: (hasattr(item[1], "commands"), item[0])
    ):
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


def commands_page() -> str:
    """Return the text of docs/reference/commands.md."""
    parts = []
    for words, command in commands():
        if hasattr(command, "commands"):
            parts.append(f"## {words[-1]}\n\n{command.help}")
        else:
            parts.append(_command(words, command))
    return COMMANDS.format(generated=GENERATED, commands="\n\n".join(parts))


def _command(words: tuple[str, ...], command: Any) -> str:
    """Return the section of one command: its line, its purpose, its arguments and options."""
    visible = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    visible = [parameter for parameter in visible if parameter.name != "help"]
    rows = [_parameter(parameter) for parameter in visible]
    usage = " ".join((*words, *(_usage(parameter) for parameter in visible)))
    table = "\n".join(["| | meaning | default |", "|---|---|---|", *rows])
    purpose = " ".join(textwrap.dedent(command.help or "").split())
    body = f"{'#' * min(len(words), 3)} {' '.join(words[1:])}\n\n    {usage}\n\n{purpose}"
    return f"{body}\n\n{table}" if rows else body


def _usage(parameter: Any) -> str:
    """Return how a parameter stands in the command's line."""
    if parameter.param_type_name == "argument":
        name = parameter.metavar or parameter.name.upper()
        name = name.strip("[]") if not parameter.required else name
        dots = "..." if parameter.nargs == -1 and not name.endswith("...") else ""
        return f"{name}{dots}" if parameter.required else f"[{name}{dots}]"
    text = f"{_option(parameter)}{' ...' if parameter.multiple else ''}"
    return text if parameter.required else f"[{text}]"


def _option(parameter: Any) -> str:
    """Return an option with the name of its value, if it takes one."""
    name = parameter.opts[0]
    if parameter.is_flag:
        return str(name)
    return f"{name} {parameter.metavar or name.strip('-').upper()}"


def _parameter(parameter: Any) -> str:
    """Return a row of a command's table."""
    name = _usage(parameter).strip("[]") if parameter.param_type_name == "argument" else _option(parameter)
    default = parameter.default if not callable(parameter.default) else None
    plain = isinstance(default, (int, float, str, Path)) and not isinstance(default, bool) and default != ""
    shown = getattr(parameter, "show_default", None)
    text = f"`{shown}`" if isinstance(shown, str) else f"`{default}`" if plain else ""
    meaning = " ".join((parameter.help or "").split())
    return f"| `{_cell(name)}` | {_cell(meaning)} | {text} |"


def _cell(text: str) -> str:
    """Return a text that may stand in a cell of a table."""
    return text.replace("|", "\\|")


def configuration_page() -> str:
    """Return the text of docs/reference/configuration.md."""
    from loop.config import Settings

    rows = []
    documented = _attribute_docs(Settings)
    for section, field in Settings.model_fields.items():
        if field.default_factory is None:
            rows.append((section, field.default, documented[section]))
            continue
        table: Any = type(field.default_factory())  # type: ignore[call-arg]
        meanings = _attribute_docs(table)
        rows += [(f"{section}.{key}", value, meanings[key]) for key, value in _defaults(table).items()]
    lines = [f"| `{key}` | `{json.dumps(value)}` | {_cell(meaning)} |" for key, value, meaning in rows]
    return CONFIGURATION.format(
        generated=GENERATED, keys="\n".join(["| key | default | meaning |", "|---|---|---|", *lines])
    )


def _defaults(table: Any) -> dict[str, Any]:
    """Return a table's keys in the order of its declaration, each with its default."""
    return dataclasses.asdict(table())


def _attribute_docs(record: type) -> dict[str, str]:
    """Return the docstring that follows each attribute of a class, those of its bases included."""
    documented: dict[str, str] = {}
    for base in reversed(record.__mro__):
        if base.__module__.partition(".")[0] not in ("loop", "agents", "store", "corpus"):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, following in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                documented[field.target.id] = " ".join(str(following.value.value).split())
    return documented


PAGES = {
    "checks.md": checks_page,
    "commands.md": commands_page,
    "configuration.md": configuration_page,
    "logs.md": logs_page,
}


def main() -> int:
    """Write the pages, or with --check compare them; return the exit code."""
    stale = []
    for name, page in PAGES.items():
        place, text = REFERENCE / name, page()
        if not place.exists() or place.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                place.write_text(text)
    for name in stale:
        sys.stderr.write(f"docs/reference/{name}: {'out of date' if '--check' in sys.argv else 'written'}\n")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    sys.exit(main())
