"""Behaviours: "when *condition*, do *this*", each with its counter-behaviour, declared in a TOML file.

Invariant: a loaded Behaviour is complete and consistent. Any other file raises a ConfigError that names the
place and the cure. A file gives two Behaviours; `counter_of` of the second, the counter-behaviour, names the
first.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.abilities import prompts as abilities
from corpus.aliases import Json
from corpus.checks import catalogue
from corpus.errors import ConfigError
from corpus.world.checks import KIND_OF

SHIPPED = Path(__file__).parent / "behaviours"
"""The behaviours of the embedded model's world."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
_KEYS = {"name", "condition", "do", "instruction", "required_rate", "cues", "examples", "judge", "held_out"}
_CHECK_KEYS = {"check", "parameters", "when", "unless", "holds"}
_JUDGE_KEYS = {"check": _CHECK_KEYS, "pattern": {"applies", "pass", "fail"}, "rubric": {"rubric"}}


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The rule by which an answer passes or fails; `kind` says which of the other fields count."""

    kind: str
    """`check`: a check of the catalogue or of the world judges; `pattern`: regular expressions; `rubric`: the
    served model."""
    check: str = ""
    """For kind `check`: the name of one of the catalogue's checks, or of the world's."""
    parameters: tuple[tuple[str, Any], ...] = ()
    """For a check of the catalogue: its parameters, (name, value), sorted by name."""
    when: str = ""
    """For a check of the catalogue: the situation that a request has to be in; "" for any request."""
    unless: str = ""
    """For a check of the catalogue: the situation that a request must not be in; "" for none."""
    holds: bool = True
    """For a check of the catalogue: whether a good answer passes it; False if a good answer must not."""
    applies: str = ""
    """For kind `pattern`: the behaviour applies to requests that match it; "" for any request."""
    passes: str = ""
    """For kind `pattern`: a good answer matches it; "" if every answer may be good."""
    fails: str = ""
    """For kind `pattern`: a bad answer matches it; "" if there is no such expression."""
    rubric: str = ""
    """For kind `rubric`: the question that the served model is asked about an answer."""

    @property
    def is_of_catalogue(self) -> bool:
        """Whether a check of the catalogue judges."""
        return self.kind == "check" and self.check in catalogue.CATALOGUE


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """A lesson that can be trained and measured."""

    name: str
    condition: str
    """The situation in which the behaviour applies, as a clause: "the user has decided what to do"."""
    do: str
    """The thing that the model should do in that situation."""
    instruction: str
    """A system prompt that makes a model show the behaviour; it is removed before training."""
    judge: Judge
    counter_of: str | None = None
    """For a counter-behaviour, the name of its behaviour; None for a behaviour."""
    required_rate: float = 0.8
    """The share of scenarios in which a model should show the behaviour, over 0 and up to 1."""
    cues: tuple[str, ...] = ()
    """Words, in lower case, by which a user's correction is recognised as being about this behaviour."""
    examples: tuple[str, ...] = ()
    """Requests to which the behaviour applies; the first dreams are modelled on them."""
    held_out: tuple[str, ...] = ()
    """Requests for measurements, which are never trained on; empty if the world's code makes them."""


def definition(behaviour: Behaviour, scenarios: int) -> str:
    """Return a digest of everything that a measured pass rate depends on.

    Args:
        behaviour: The behaviour, whose judge and held-out requests count.
        scenarios: The number of scenarios of a measurement.
    """
    judge = behaviour.judge
    by: tuple[Any, ...] = (judge.kind, judge.check, judge.applies, judge.passes, judge.fails, judge.rubric)
    if judge.is_of_catalogue:
        by = (*by, judge.parameters, judge.when, judge.unless, judge.holds)
    parts = (by, behaviour.held_out, scenarios)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def load_file(path: Path) -> tuple[Behaviour, Behaviour]:
    """Return the behaviour and the counter-behaviour that one file declares."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a readable TOML file ({error})") from error
    counter = table.pop("counter", None)
    if not isinstance(counter, dict):
        raise ConfigError(
            f"{path}: a behaviour needs a [counter] table that says when not to do it; "
            "without one a model learns to do it always"
        )
    behaviour = _behaviour(path, table, None)
    return behaviour, _behaviour(path, counter, behaviour.name)


def load(folders: Iterable[Path]) -> dict[str, Behaviour]:
    """Return all behaviours of these folders, sorted by name; no name may occur twice."""
    behaviours: dict[str, Behaviour] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.toml")):
            for behaviour in load_file(path):
                if behaviour.name in behaviours:
                    raise ConfigError(
                        f"{path}: there is already a behaviour named {behaviour.name}; choose another name"
                    )
                behaviours[behaviour.name] = behaviour
    return dict(sorted(behaviours.items()))


def counter_to(behaviour: Behaviour, among: dict[str, Behaviour]) -> Behaviour:
    """Return the counter-behaviour of a behaviour, or the behaviour of a counter-behaviour.

    Args:
        behaviour: Either of the two.
        among: All behaviours, by name.
    """
    if behaviour.counter_of:
        return among[behaviour.counter_of]
    return next(other for other in among.values() if other.counter_of == behaviour.name)


def sides(name: str, among: dict[str, Behaviour]) -> tuple[Behaviour, ...]:
    """Return the behaviours whose scenarios are dreamt when the behaviour `name` is to improve.

    They are the behaviour and its counter-behaviour. If `name` is a counter-behaviour, it is the only one.

    Args:
        name: The behaviour to improve.
        among: All behaviours, by name.
    """
    behaviour = among[name]
    return (behaviour,) if behaviour.counter_of else (behaviour, counter_to(behaviour, among))


def _behaviour(path: Path, table: Json, counter_of: str | None) -> Behaviour:
    where = f"{path}: [counter]" if counter_of else str(path)
    if unknown := sorted(set(table) - _KEYS):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
    name = _text(where, table, "name")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: name {name!r} must be lower case letters, digits and _, 48 at most")
    if name == abilities.NAME:
        raise ConfigError(f"{where}: {name!r} is the name of a guard of the program's own; choose another")
    rate = table.get("required_rate", 0.8)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
        raise ConfigError(f"{where}: required_rate must be a number over 0 and up to 1, not {rate!r}")
    behaviour = Behaviour(
        name=name,
        counter_of=counter_of,
        condition=_text(where, table, "condition"),
        do=_text(where, table, "do"),
        instruction=_text(where, table, "instruction"),
        judge=_judge(where, table.get("judge")),
        required_rate=float(rate),
        cues=tuple(cue.lower() for cue in _texts(where, table, "cues")),
        examples=_texts(where, table, "examples"),
        held_out=_held_out(where, table.get("held_out", {})),
    )
    if behaviour.judge.check not in KIND_OF and not behaviour.held_out:
        raise ConfigError(
            f"{where}: needs [held_out] scenarios = [...]: without them no update can be measured"
        )
    return behaviour


def _judge(where: str, table: Any) -> Judge:
    if not isinstance(table, dict) or table.get("kind") not in tuple(_JUDGE_KEYS):
        raise ConfigError(f"{where}: needs judge = {{ kind = ... }}, one of {', '.join(_JUDGE_KEYS)}")
    kind = table["kind"]
    if unknown := sorted(set(table) - _JUDGE_KEYS[kind] - {"kind"}):
        raise ConfigError(f"{where}: judge of kind {kind} has no key {unknown[0]!r}")
    if kind == "check":
        return _check(where, table)
    values = {key: _text(where, table, key) for key in table if key != "kind"}
    if kind == "pattern" and not values.keys() & {"pass", "fail"}:
        raise ConfigError(f"{where}: judge of kind pattern needs pass or fail, a regular expression")
    if kind == "rubric" and "rubric" not in values:
        raise ConfigError(f"{where}: judge of kind rubric needs rubric, a question about the answer")
    for key in ("applies", "pass", "fail"):
        try:
            re.compile(values.get(key, ""))
        except re.error as error:
            raise ConfigError(f"{where}: judge.{key} is not a regular expression: {error}") from error
    given = {key: values.get(key, "") for key in ("applies", "pass", "fail", "rubric")}
    return Judge(
        kind=kind,
        applies=given["applies"],
        passes=given["pass"],
        fails=given["fail"],
        rubric=given["rubric"],
    )


def _check(where: str, table: Json) -> Judge:
    """Return the judge of kind `check` that a table declares: one of the catalogue, or of the world."""
    name, parameters = table.get("check"), table.get("parameters", {})
    if name in KIND_OF and set(table) <= {"kind", "check"}:
        return Judge(kind="check", check=name)
    if not isinstance(name, str) or name not in catalogue.CATALOGUE:
        raise ConfigError(
            f"{where}: judge.check must be one of {', '.join(sorted(catalogue.CATALOGUE))}; "
            f"for the shipped model also {', '.join(KIND_OF)}, without other keys"
        )
    if not isinstance(parameters, dict):
        raise ConfigError(f"{where}: judge.parameters must be a table, such as {{ most = 30 }}")
    situations: dict[str, str] = {key: _text(where, table, key) for key in ("when", "unless") if key in table}
    if refusal := catalogue.refusal(name, parameters, situations):
        raise ConfigError(f"{where}: judge: {refusal}")
    if not isinstance(holds := table.get("holds", True), bool):
        raise ConfigError(f"{where}: judge.holds must be true or false, not {holds!r}")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in parameters.items()}
    return Judge(kind="check", check=name, parameters=tuple(sorted(given.items())), holds=holds, **situations)


def _held_out(where: str, table: Any) -> tuple[str, ...]:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: [held_out] must be a table with scenarios = [...]")
    if unknown := sorted(set(table) - {"scenarios"}):
        raise ConfigError(f"{where}: [held_out] has no key {unknown[0]!r}; it has scenarios")
    return _texts(where, table, "scenarios")


def _text(where: str, table: Json, key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}: {key} must be a text that is not empty")
    return value


def _texts(where: str, table: Json, key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise ConfigError(f"{where}: {key} must be a list of texts")
    return tuple(value)
