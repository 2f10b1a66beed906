"""Behaviour files: a complete one is loaded as written, any other is refused with the place and the cure."""

from collections.abc import Callable
from pathlib import Path

import pytest

from corpus.behaviour import SHIPPED, Behaviour, Judge, counter_to, definition, load, load_file, sides
from corpus.errors import ConfigError
from corpus.world.checks import KIND_OF

WHOLE = """\
name = "greet"
condition = "the user says hello"
do = "greet back"
instruction = "Greet back."
required_rate = 0.9
cues = ["Rude", "no greeting"]
examples = ["Hello.", "Good day."]
judge = { kind = "pattern", applies = "hello|day", pass = "hello", fail = "go away" }

[held_out]
scenarios = ["Hello there.", "A good day to you."]

[counter]
name = "stay_silent"
condition = "the user asks for silence"
do = "say as little as possible"
instruction = "Say as little as possible."
judge = { kind = "rubric", rubric = "Is the answer of one word?" }
held_out = { scenarios = ["Be silent."] }
"""
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def place(text: str) -> Path:
        path = tmp_path / "greet.toml"
        path.write_text(text, "utf-8")
        return path

    return place


def test_a_whole_file_is_loaded_as_it_is_written(write: Write) -> None:
    greet, silent = load_file(write(WHOLE))
    assert greet == Behaviour(
        name="greet",
        condition="the user says hello",
        do="greet back",
        instruction="Greet back.",
        judge=Judge(kind="pattern", applies="hello|day", passes="hello", fails="go away"),
        required_rate=0.9,
        cues=("rude", "no greeting"),
        examples=("Hello.", "Good day."),
        held_out=("Hello there.", "A good day to you."),
    )
    assert silent.counter_of == "greet" and silent.judge == Judge(
        kind="rubric", rubric="Is the answer of one word?"
    )
    assert silent.required_rate == 0.8 and silent.cues == silent.examples == ()


COUNTER = WHOLE[WHOLE.index("[counter]") :]
HELD_OUT = WHOLE[WHOLE.index("[held_out]") : WHOLE.index("[counter]")]
RUBRIC = '{ kind = "rubric", rubric = "Is the answer of one word?" }'


@pytest.mark.parametrize(
    "old, new, complaint",
    [
        ("name =", "name", "not a readable TOML file"),
        (COUNTER, "", "needs a [counter] table"),
        (COUNTER, 'counter = "stay_silent"', "needs a [counter] table"),
        ('name = "greet"', "", "name must be a text that is not empty"),
        ('name = "greet"', "name = 7", "name must be a text that is not empty"),
        ('name = "greet"', 'name = "  "', "name must be a text that is not empty"),
        ('name = "greet"', 'name = "Greet"', "must be lower case letters"),
        ('name = "greet"', 'name = "../../etc/passwd"', "must be lower case letters"),
        ('name = "greet"', f'name = "{"a" * 49}"', "48 at most"),
        ('name = "greet"', 'name = "abilities"', "a guard of the program's own; choose another"),
        ('name = "stay_silent"', 'name = "stay silent"', "[counter]: name 'stay silent' must be lower case"),
        ('condition = "the user says hello"', "", "condition must be a text"),
        ('do = "greet back"', 'do = ""', "do must be a text"),
        ('instruction = "Greet back."', 'instruction = ["Greet back."]', "instruction must be a text"),
        ('instruction = "Say as little as possible."', "", "[counter]: instruction must be a text"),
        ("required_rate = 0.9", "required_rate = 0", "over 0 and up to 1, not 0"),
        ("required_rate = 0.9", "required_rate = 1.1", "over 0 and up to 1, not 1.1"),
        ("required_rate = 0.9", "required_rate = true", "over 0 and up to 1, not True"),
        ("required_rate = 0.9", "required_rate = nan", "over 0 and up to 1, not nan"),
        ("required_rate = 0.9", 'required_rate = "high"', "over 0 and up to 1, not 'high'"),
        ("required_rate", "rate", "unknown key 'rate'; known are"),
        ("[held_out]\n", "[heldout]\n", "unknown key 'heldout'"),
        (HELD_OUT, "", "needs [held_out] scenarios"),
        ('held_out = { scenarios = ["Be silent."] }', "", "[counter]: needs [held_out] scenarios"),
        ("scenarios = [", "scenario = [", "[held_out] has no key 'scenario'; it has scenarios"),
        (HELD_OUT, 'held_out = ["Hello there."]\n', "[held_out] must be a table"),
        ('cues = ["Rude", "no greeting"]', 'cues = "rude"', "cues must be a list of texts"),
        (
            'examples = ["Hello.", "Good day."]',
            'examples = ["Hello.", ""]',
            "examples must be a list of texts",
        ),
        (
            'scenarios = ["Hello there.", "A good day to you."]',
            "scenarios = [1]",
            "scenarios must be a list of texts",
        ),
        ('kind = "pattern"', 'kind = "magic"', "one of check, pattern, rubric"),
        (RUBRIC, '"rubric"', "needs judge = { kind = ... }"),
        (f"judge = {RUBRIC}", "", "[counter]: needs judge"),
        ('kind = "pattern"', 'kind = ["pattern"]', "needs judge = { kind = ... }"),
        ("pass =", "passes =", "judge of kind pattern has no key 'passes'"),
        (', pass = "hello", fail = "go away" ', "", "needs pass or fail"),
        ('pass = "hello"', 'pass = "(hello"', "judge.pass is not a regular expression"),
        ('applies = "hello|day"', 'applies = "*"', "judge.applies is not a regular expression"),
        ('fail = "go away"', "fail = 3", "fail must be a text"),
        (', rubric = "Is the answer of one word?"', "", "needs rubric, a question about the answer"),
        (RUBRIC, '{ kind = "check", check = "sing" }', "judge.check must be one of asks_first, bullets"),
        (RUBRIC, '{ kind = "check" }', "for the shipped model also listen"),
        (RUBRIC, '{ kind = "check", check = "max_words" }', "[counter]: judge: the check max_words needs"),
        (RUBRIC, '{ kind = "check", check = "max_words", parameters = 3 }', "must be a table, such as"),
        (RUBRIC, '{ kind = "check", check = "no_emoji", when = "never" }', "no situation is named 'never'"),
        (RUBRIC, '{ kind = "check", check = "no_emoji", holds = 0 }', "holds must be true or false, not 0"),
        (RUBRIC, '{ kind = "check", check = "listen", when = "vague" }', "without other keys"),
        ('name = "stay_silent"', 'name = "greet"', "greet"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_name_with_the_cure(
    write: Write, old: str, new: str, complaint: str
) -> None:
    assert old in WHOLE
    path = write(WHOLE.replace(old, new, 1))
    with pytest.raises(ConfigError) as refusal:
        load([path.parent])
    assert str(refusal.value).startswith(f"{path}: ")
    assert complaint in str(refusal.value)
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00" * 100, b"name = \xe9"])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "greet.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not a readable TOML file"):
        load_file(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.toml", tmp_path):
        with pytest.raises(ConfigError, match="not a readable TOML file"):
            load_file(path)


def test_a_file_may_name_a_check_of_the_catalogue_with_its_parameters_and_situations(write: Write) -> None:
    check = (
        '{ kind = "check", check = "no_phrase", parameters = { phrases = ["hm"] }, '
        'when = "list", holds = false }'
    )
    _, silent = load_file(write(WHOLE.replace(RUBRIC, check)))
    assert silent.judge == Judge(
        kind="check", check="no_phrase", parameters=(("phrases", ("hm",)),), when="list", holds=False
    )
    shortened = WHOLE.replace(RUBRIC, check).replace('held_out = { scenarios = ["Be silent."] }', "")
    with pytest.raises(ConfigError, match=r"\[counter\]: needs \[held_out\] scenarios"):
        load_file(write(shortened))


def test_a_pass_rate_depends_on_the_parameters_of_its_check_and_an_old_one_keeps_its_digest() -> None:
    def digest(judge: Judge) -> str:
        made = Behaviour(name="a", condition="c", do="d", instruction="i", judge=judge, held_out=("x",))
        return definition(made, 400)

    checks = [
        Judge(kind="check", check="max_words", parameters=(("most", most),), unless=unless)
        for most in (30, 31)
        for unless in ("", "detail")
    ]
    assert len({digest(judge) for judge in checks}) == 4
    assert digest(Judge(kind="pattern", passes="hello")) == "f34cc4f001437955"


def test_a_name_may_be_used_once_among_all_folders(write: Write, tmp_path: Path) -> None:
    path = write(WHOLE.replace('"greet"', '"listen"'))
    with pytest.raises(ConfigError, match="already a behaviour named listen; choose another name") as refusal:
        load([SHIPPED, tmp_path])
    assert str(path) in str(refusal.value)


def test_only_toml_files_of_a_folder_are_read_and_a_folder_may_be_missing(
    write: Write, tmp_path: Path
) -> None:
    write(WHOLE)
    (tmp_path / "notes.md").write_text("not a behaviour")
    assert list(load([tmp_path, tmp_path / "nowhere"])) == ["greet", "stay_silent"]


def test_each_shipped_behaviour_has_a_counter_behaviour_and_a_check_of_its_own() -> None:
    shipped = load([SHIPPED])
    habits = [behaviour for behaviour in shipped.values() if behaviour.counter_of is None]
    assert len(habits) >= 4 and len(shipped) == 2 * len(habits)
    for habit in habits:
        counter = counter_to(habit, shipped)
        assert counter.counter_of == habit.name and counter_to(counter, shipped) == habit
        assert sides(habit.name, shipped) == (habit, counter) and sides(counter.name, shipped) == (counter,)
    assert sorted(behaviour.judge.check for behaviour in shipped.values()) == sorted(KIND_OF)
    assert all(behaviour.examples and behaviour.cues for behaviour in shipped.values())
