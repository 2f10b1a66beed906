"""The configuration of a home, from HOME/config.toml and the environment.

A value in the environment (`NIGHTSCHOOL_SCHEDULE__IDLE_MINUTES=5`) overrides the file, and a value in the
file overrides the default here. Invariant: an unknown key or a bad value stops the start, with a message that
names the key and the cure.
"""

import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from sqlalchemy import make_url

from agents.dreamer.rounds import DreamSettings
from agents.extractor.handler import ExtractorSettings
from agents.model.context import ContextSettings
from agents.model.settings import ModelSettings
from agents.pairs.attempts import PairSettings
from agents.trainer.handler import TrainingSettings
from corpus.errors import ConfigError, TrainerFault

_FORBID = {"extra": "forbid"}
_TIME = r"(([01]\d|2[0-3]):[0-5]\d|24:00)"
_WINDOW = re.compile(f"{_TIME}-{_TIME}")
_TRIED = re.compile(r"(constrained-)?(float|int)|literal\[.*\]")
MAX_SEED = 2**31 - 1
"""Largest seed, which an INTEGER column of every supported database can hold."""
OBSERVING = (
    "training.enabled is false: observing only (set it to true in config.toml, and start again, to train)"
)
"""The reason given to the user when no update is made because training is disabled."""
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most"}
"""Words for pydantic's constraints on numbers, for error messages."""


@dataclass(frozen=True, kw_only=True)
class IngestSettings:
    """Which logs are followed."""

    __pydantic_config__ = _FORBID

    watch: tuple[str, ...] = ()
    """Folders whose logs are read as they grow, in addition to `inbox/` in the home."""


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """When a night begins by itself, and how its update waits for active users."""

    __pydantic_config__ = _FORBID

    windows: tuple[str, ...] = ("00:00-24:00",)
    """Windows of local time in which a night may begin by itself. A window may pass midnight. With `[]` no
    night begins by itself."""
    idle_minutes: Annotated[float, Field(ge=0)] = 0.0
    """Minutes without a user's request before a night begins; with 0 a night does not wait. The model also
    answers during a night."""
    min_lessons: Annotated[int, Field(ge=0)] = 1
    """Number of new lessons before a night begins. A night also begins if earlier nights left `pairs.minimum`
    pairs unused."""
    settle_seconds: Annotated[float, Field(ge=0)] = 2.0
    """Seconds without a new lesson before a night begins, because logs arrive in bursts."""
    max_wait_hours: Annotated[float, Field(ge=0)] = 48.0
    """Hours that a new lesson waits for `schedule.idle_minutes`. After that a night begins although users are
    active, but only within the windows."""
    max_per_day: Annotated[int, Field(ge=0)] = 4
    """Number of nights within 24 hours after which no further night begins by itself. Nights that had nothing
    to learn are not counted."""
    yield_seconds: Annotated[float, Field(ge=0)] = 0.0
    """Seconds after a user's request during which an update waits before its next step; 0 does not wait."""
    max_yield_minutes: Annotated[float, Field(ge=0)] = 30.0
    """Minutes that one update waits for users in total. After that it continues although users are active."""

    def __post_init__(self) -> None:
        for window in self.windows:
            if not _WINDOW.fullmatch(window):
                raise ValueError(f"schedule.windows: {window!r} is not a window; write it like 01:00-05:30")


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """Which optimizer states of earlier nights are kept, and how long swept files stay in the trash."""

    __pydantic_config__ = _FORBID

    optimizer_states: Annotated[int, Field(ge=1)] = 3
    """Number of the newest kept checkpoints whose optimizer state is stored; the active checkpoint's state is
    always stored. Training from an older checkpoint starts with a fresh optimizer state."""
    trash_days: Annotated[float, Field(ge=0)] = 14.0
    """Days that files which no checkpoint needs stay in `checkpoints/trash/`, from where `recover --trash`
    puts them back; with 0 they are deleted at once."""


@dataclass(frozen=True, kw_only=True)
class VerdictSettings:
    """The conditions under which an update is kept."""

    __pydantic_config__ = _FORBID

    scenarios: Annotated[int, Field(ge=1, le=100_000)] = 400
    """Largest number of answers to held-out scenarios of each behaviour, before an update and after it. A
    verdict needs fewer where the evidence decides sooner."""
    max_rounds: Annotated[int, Field(ge=1, le=100)] = 6
    """Largest number of rounds in which scenarios are measured. A round follows while the verdict is
    inconclusive; the last one measures all that are left. If the verdict is still inconclusive then, the
    update is undone."""
    abilities: Annotated[int, Field(ge=0)] = 188
    """Number of the 188 prompts on which the abilities of your own model are measured before and after an
    update; 0 for no measurement. The abilities of the shipped model are not measured."""
    abilities_margin: Annotated[float, Field(ge=0, le=1)] = 0.10
    """Smallest drop of the pass rate of the abilities that counts as a loss."""
    margin: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Smallest drop of a behaviour's pass rate that counts as a loss (the non-inferiority margin). Where a
    behaviour has too few scenarios to exclude it, the smallest one that they can exclude counts instead."""
    perplexity: Annotated[float, Field(ge=1, le=1000)] = 1.10
    """Largest allowed ratio of the perplexity on ordinary text after an update to that before it."""
    drift: Annotated[float, Field(ge=0)] = 1.5
    """Largest allowed change of the mean reading of one concept, in standard deviations over the probe
    set."""
    joint_drift: Annotated[float, Field(ge=0)] = 0.5
    """Largest allowed distance that the readings of all concepts move together, in standard deviations per
    concept."""


@dataclass(frozen=True, kw_only=True)
class LessonSettings:
    """Which proposed behaviours are shown, and which are accepted without a person."""

    __pydantic_config__ = _FORBID

    accept: Literal["ask", "catalogue", "all"] = "ask"
    """Who accepts proposals: a person ("ask"); the program too, those that a check judges, that
    `lessons.people` people want and that contradict nothing ("catalogue"); or the program all that a check
    judges ("all")."""
    conversations: Annotated[int, Field(ge=1)] = 2
    """Smallest number of conversations with the same complaint before a behaviour is proposed."""
    people: Annotated[int, Field(ge=1)] = 2
    """Smallest number of people behind a proposal that the program accepts with "catalogue"."""


@dataclass(frozen=True, kw_only=True)
class NightSettings:
    """What a night may cost."""

    __pydantic_config__ = _FORBID

    max_tokens: Annotated[int, Field(ge=0)] = 0
    """Largest number of tokens that the model generates in one night; 0 for no limit. What measuring an
    update costs is set aside first. Dreams and attempts end when the rest is spent, and the night goes on
    with the pairs that there are."""


@dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """What a night reads in addition to the probe set, and how its update is examined."""

    __pydantic_config__ = _FORBID

    enabled: bool = True
    """Whether a night takes concept readings of conversations and of its attempts. Readings of the probe set
    are always taken."""
    turns: Annotated[int, Field(ge=0)] = 2000
    """Largest number of conversation turns that one night takes readings of. Conversations with a signal come
    first; the others wait for the next night."""
    attempts: Annotated[int, Field(ge=0)] = 256
    """Largest number of attempts that one night takes readings of."""
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of all conversations that readings are taken of. The id of a conversation decides whether it is
    among them."""
    reestimate_nights: Annotated[int, Field(ge=0)] = 14
    """Number of nights after which the concept vectors are estimated again on the current weights; 0 for
    never."""
    exchanges: Annotated[int, Field(ge=1)] = 64
    """Number of the 284 exchanges of ordinary dialogue on which the perplexity of your own model is measured
    before and after an update."""
    locate: bool = True
    """Whether a night searches, after each update, for the part of the weights in which the update lies."""


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """The service's HTTP interface on loopback."""

    __pydantic_config__ = _FORBID

    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port on loopback; 0 for any free port, which the service reports when it is ready."""
    capture: bool = True
    """Whether conversations that pass through `/v1/chat/completions` are written to logs in `inbox/`, which
    the service reads."""


@dataclass(frozen=True, kw_only=True)
class PrivacySettings:
    """What is removed from conversations before they are stored, in addition to secrets."""

    __pydantic_config__ = _FORBID

    pii: Literal["keep", "mask"] = "keep"
    """Whether e-mail addresses, telephone and card numbers, IBANs and announced seed phrases are stored as
    they are, or as masks that are the same for the same value. `mask` also masks what is stored already."""


class Settings(BaseSettings):
    """The whole configuration of a home, one attribute for each table of the file."""

    model_config = SettingsConfigDict(
        env_prefix="NIGHTSCHOOL_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    """Seed of all random draws of a night, unless `night --seed` gives another."""
    database: str = ""
    """SQLAlchemy URL of the ledger; empty for `ledger.db` in the home."""
    model: ModelSettings = Field(default_factory=ModelSettings)
    ingest: IngestSettings = Field(default_factory=IngestSettings)
    extractor: ExtractorSettings = Field(default_factory=ExtractorSettings)
    context: ContextSettings = Field(default_factory=ContextSettings)
    lessons: LessonSettings = Field(default_factory=LessonSettings)
    schedule: ScheduleSettings = Field(default_factory=ScheduleSettings)
    night: NightSettings = Field(default_factory=NightSettings)
    dreams: DreamSettings = Field(default_factory=DreamSettings)
    pairs: PairSettings = Field(default_factory=PairSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    checkpoints: CheckpointSettings = Field(default_factory=CheckpointSettings)
    verdict: VerdictSettings = Field(default_factory=VerdictSettings)
    monitor: MonitorSettings = Field(default_factory=MonitorSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    privacy: PrivacySettings = Field(default_factory=PrivacySettings)

    @property
    def trains(self) -> bool:
        """Whether updates are made. If `training.enabled` is not set, they are made without a `model.url`."""
        return not self.model.url if self.training.enabled is None else self.training.enabled

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of settings in order of precedence: the environment comes before the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(config_file: Path) -> Settings:
    """Return the configuration from this file, the environment and the defaults.

    A value or a key that is not allowed raises `ConfigError`, which names it.
    """
    _refuse_unknown_variables()

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=config_file)

    try:
        return FromFile()
    except ValidationError as error:
        raise ConfigError(f"{config_file}: {_first_fault(error)}") from error
    except TrainerFault as error:
        raise ConfigError(f"{config_file}: training: {error}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"{config_file}: {error}") from error


def _first_fault(error: ValidationError) -> str:
    """Return a message about the first value that was refused: its key, and what is wrong or allowed."""
    errors = error.errors()
    first, key = errors[0], _key(errors[0]["loc"])
    place = key or "configuration"
    for bound, words in BOUNDS.items():
        if bound in first.get("ctx", {}):
            limit = str(first["ctx"][bound]).removesuffix(".0")
            return f"{place} must be {words} {limit}, not {first['input']}"
    # A value that may have several types has one error for each.
    return f"{place}: {', or '.join(each['msg'] for each in errors if _key(each['loc']) == key)}"


def _key(location: tuple[int | str, ...]) -> str:
    """Return the key of a value; pydantic adds the tried type of a value that may have several types."""
    named = itertools.takewhile(lambda part: _TRIED.fullmatch(str(part)) is None, location)
    return ".".join(map(str, named))


def shown(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON, with keys and passwords hidden."""
    value = settings.model_dump(mode="json")
    for table in (value["extractor"], value["model"]):
        if table["api_key"]:
            table["api_key"] = "(set)"
    if value["database"]:
        value["database"] = make_url(value["database"]).render_as_string(hide_password=True)
    return value


def _refuse_unknown_variables() -> None:
    """Raise `ConfigError` for a variable NIGHTSCHOOL_... that is no setting: pydantic would ignore it."""
    for name in os.environ:
        section, *keys = name.upper().removeprefix("NIGHTSCHOOL_").split("__")
        if not name.upper().startswith("NIGHTSCHOOL_") or name == "NIGHTSCHOOL_HOME":
            continue
        field = Settings.model_fields.get(section.lower())
        if field is None or (keys and field.default_factory is None):
            raise ConfigError(f"the environment variable {name} is not a setting; see `nightschool config`")
