"""The configuration: unknown keys and invalid values prevent the start, with the place and the cure."""

from collections.abc import Callable
from pathlib import Path

import pytest

from corpus.errors import ConfigError
from loop.config import Settings, load_settings
from store.home import CONFIG

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def place(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text, "utf-8")
        return path

    return place


def effective(path: Path) -> dict[str, object]:
    """Return every value that is in effect."""
    return load_settings(path).model_dump()


def refused(path: Path) -> str:
    """Return the message that refuses this configuration."""
    with pytest.raises(ConfigError) as refusal:
        load_settings(path)
    assert refusal.value.exit_code == 2
    return str(refusal.value)


def test_the_file_that_init_writes_holds_the_defaults(write: Write) -> None:
    assert effective(write(CONFIG)) == effective(write("")) == Settings().model_dump()


def test_a_file_changes_only_the_values_that_it_sets(write: Write) -> None:
    schedule = '[schedule]\nwindows = ["22:00-04:00", "13:00-14:00"]\n'
    text = f'seed = 7\n{schedule}[training]\nobjective = "dpo"\nlr = 1e-4\n'
    settings = load_settings(write(text))
    assert (settings.seed, settings.training.objective, settings.training.lr) == (7, "dpo", 1e-4)
    assert settings.schedule.windows == ("22:00-04:00", "13:00-14:00")
    assert settings.schedule.max_per_day == Settings().schedule.max_per_day
    assert settings.pairs == Settings().pairs


def test_the_environment_overrides_the_file_and_the_file_the_defaults(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("seed = 7\n[schedule]\nidle_minutes = 3\nmin_lessons = 9\n")
    monkeypatch.setenv("NIGHTSCHOOL_SEED", "8")
    monkeypatch.setenv("NIGHTSCHOOL_SCHEDULE__IDLE_MINUTES", "5.5")
    settings = load_settings(path)
    assert (settings.seed, settings.schedule.idle_minutes, settings.schedule.min_lessons) == (8, 5.5, 9)
    assert settings.schedule.settle_seconds == Settings().schedule.settle_seconds


def test_settings_do_not_change_once_they_are_loaded(write: Write) -> None:
    settings = load_settings(write(""))
    with pytest.raises(Exception, match="frozen"):
        settings.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "text, place",
    [
        ("sed = 1", "sed"),
        ("[schedul]\nmin_lessons = 1", "schedul"),
        ("[schedule]\nidle_minute = 1", "schedule.idle_minute"),
        ("[model]\ntrust_remote_code = true", "model.trust_remote_code"),
        ("[training.apollo]\nrank = 1", "training.apollo"),
        ("[dreams]\nnumber = 1", "dreams.number"),
        ("[pairs]\nmaximum = 1", "pairs.maximum"),
        ("[verdict]\nmargn = 0.05", "verdict.margn"),
        ("[http]\nhost = '0.0.0.0'", "http.host"),
        ("[ingest]\nwatchh = []", "ingest.watchh"),
    ],
)
def test_an_unknown_key_is_refused_by_name(write: Write, text: str, place: str) -> None:
    path = write(text)
    assert refused(path).startswith(f"{path}: {place}: ")


@pytest.mark.parametrize(
    "text, place",
    [
        ('seed = "x"', "seed"),
        ("seed = 1.5", "seed"),
        ("seed = -1", "seed"),
        ("seed = 99999999999", "seed"),
        ("model = 3", "model"),
        ("[model]\nthreads = -1", "model.threads"),
        ('[ingest]\nwatch = "logs"', "ingest.watch"),
        ('[schedule]\nwindows = "00:00-24:00"', "schedule.windows"),
        (
            '[schedule]\nwindows = ["3-5"]',
            "schedule.windows: '3-5' is not a window; write it like 01:00-05:30",
        ),
        ('[schedule]\nwindows = ["24:30-03:00"]', "schedule.windows"),
        ('[schedule]\nwindows = ["01:60-03:00"]', "schedule.windows"),
        ("[schedule]\nidle_minutes = -1", "schedule.idle_minutes"),
        ("[schedule]\nidle_minutes = nan", "schedule.idle_minutes"),
        ("[schedule]\nmax_per_day = -1", "schedule.max_per_day"),
        ("[dreams]\nper_night = 0", "dreams.per_night must be at least 1, not 0"),
        ("[dreams]\ncounter_share = -1", "dreams.counter_share"),
        ('[pairs]\nattempts = "six"', "pairs.attempts"),
        ("[pairs]\nminimum = 0", "pairs.minimum"),
        ("[pairs]\ntrust_in_logs = 1.5", "pairs.trust_in_logs"),
        ("[pairs]\ntemperature = 0", "pairs.temperature"),
        ('[training]\nenabled = "maybe"', "training.enabled"),
        ('[training]\nobjective = "ppo"', "training.objective"),
        ("[training]\nlr = 0", "lr must be above 0"),
        ("[training]\nlr = nan", "training.lr must be at most 10, not nan"),
        ("[training]\nlr = inf", "training.lr"),
        ('[training]\nlr = "fast"', "training.lr: Input should be a valid number"),
        ('[training]\nlr = "fast"', "or Input should be 'auto'"),
        ("[training]\nbatch_size = -1", "batch_size must be above 0"),
        ("[training]\nrank = 0", "rank must be above 0"),
        ("[training]\nbetas = [0.9]", "training.betas"),
        ("[training]\nreplay = 1.0", "training.replay"),
        ("[verdict]\nscenarios = 0", "verdict.scenarios"),
        ("[verdict]\nmargin = 2", "verdict.margin"),
        ("[verdict]\nmargin = nan", "verdict.margin"),
        ("[verdict]\nperplexity = 0.5", "verdict.perplexity"),
        ("[http]\nport = 65536", "http.port"),
    ],
)
def test_an_invalid_value_is_refused_by_name(write: Write, text: str, place: str) -> None:
    path = write(text)
    message = refused(path)
    assert message.startswith(f"{path}: ") and place in message


@pytest.mark.parametrize("content", [b"seed = ", b"[schedule", b"\xff\xfe", b"seed = 1\nseed = 2", b"\0"])
def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    assert refused(path).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "name, value, named",
    [
        ("NIGHTSCHOOL_SED", "1", "NIGHTSCHOOL_SED"),
        ("NIGHTSCHOOL_SEED__X", "1", "NIGHTSCHOOL_SEED__X"),
        ("nightschool_sed", "1", "nightschool_sed"),
        ("NIGHTSCHOOL_HOME__X", "1", "NIGHTSCHOOL_HOME__X"),
        ("NIGHTSCHOOL_SCHEDULE__IDLE_MINUTE", "1", "schedule.idle_minute"),
        ("NIGHTSCHOOL_SCHEDULE__WINDOWS", "01:00-05:30", "schedule.windows"),
        ("NIGHTSCHOOL_SCHEDULE", "5", "schedule"),
        ("NIGHTSCHOOL_SEED", "x", "seed"),
        ("NIGHTSCHOOL_TRAINING__LR", "-1", "lr must be above 0"),
    ],
)
def test_an_unknown_variable_or_one_with_an_invalid_value_is_refused(
    write: Write, monkeypatch: pytest.MonkeyPatch, name: str, value: str, named: str
) -> None:
    monkeypatch.setenv(name, value)
    assert named in refused(write(""))


def test_the_variable_of_the_home_is_not_taken_for_a_setting(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSCHOOL_HOME", "/somewhere")
    assert effective(write("")) == Settings().model_dump()
