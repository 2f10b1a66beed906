"""The configuration: one documented object from HOME/config.toml and the environment.

Precedence: environment (`NIGHTSCHOOL_SCHEDULE__IDLE_MINUTES=5`), then the file, then the defaults here.
Invariant: an unknown key or a bad value stops the start, with the place and the cure.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from sqlalchemy import make_url

from agents.dreamer.dream import DreamSettings
from agents.extractor.handler import ExtractorSettings
from agents.model.settings import ModelSettings
from agents.pairs.attempts import PairSettings
from agents.trainer.handler import TrainingSettings
from corpus.errors import ConfigError, TrainerFault

_FORBID = {"extra": "forbid"}
_TIME = r"(([01]\d|2[0-3]):[0-5]\d|24:00)"
_WINDOW = re.compile(f"{_TIME}-{_TIME}")
MAX_SEED = 2**31 - 1
"""Largest seed: what an INTEGER column of any database holds."""
OBSERVING = (
    "training.enabled is false: observing only (set it to true in config.toml, and start again, to train)"
)
"""Why no update is made, although everything else is done."""
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most"}
"""Constraints on numbers, in words."""


@dataclass(frozen=True, kw_only=True)
class IngestSettings:
    """The logs that are followed."""

    __pydantic_config__ = _FORBID

    watch: tuple[str, ...] = ()
    """Folders whose logs are followed as they grow, beside `inbox/` in the home."""


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """When a night begins by itself, and how its update yields to users."""

    __pydantic_config__ = _FORBID

    windows: tuple[str, ...] = ("00:00-24:00",)
    """Local times of day in which a night may begin by itself; one may pass midnight. `[]` is never."""
    idle_minutes: Annotated[float, Field(ge=0)] = 0.0
    """A night waits until no user has asked for this long; 0 does not wait. Answers go on during a
    night."""
    min_lessons: Annotated[int, Field(ge=0)] = 1
    """New lessons that a night waits for; `pairs.minimum` pairs left over from earlier nights do as
    well."""
    settle_seconds: Annotated[float, Field(ge=0)] = 2.0
    """Age of the newest lesson before a night begins, because logs arrive in bursts."""
    max_wait_hours: Annotated[float, Field(ge=0)] = 48.0
    """After this long a lesson is learnt although a user is active, but only within the windows."""
    max_per_day: Annotated[int, Field(ge=0)] = 4
    """Nights that may begin by themselves within 24 hours, counting those that had something to learn."""
    yield_seconds: Annotated[float, Field(ge=0)] = 0.0
    """While a user has asked within this time, an update waits between two steps; 0 does not wait."""
    max_yield_minutes: Annotated[float, Field(ge=0)] = 30.0
    """How long one update waits for users in all; after that it goes on beside them."""

    def __post_init__(self) -> None:
        for window in self.windows:
            if not _WINDOW.fullmatch(window):
                raise ValueError(f"schedule.windows: {window!r} is not a window; write it like 01:00-05:30")


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """How much of earlier nights is kept."""

    __pydantic_config__ = _FORBID

    optimizer_states: Annotated[int, Field(ge=1)] = 3
    """Number of the newest kept checkpoints whose optimizer's state is stored, beside the active one's.
    Training that continues from an older checkpoint starts with a fresh state."""


@dataclass(frozen=True, kw_only=True)
class VerdictSettings:
    """What an update must show to be kept."""

    __pydantic_config__ = _FORBID

    scenarios: Annotated[int, Field(ge=1, le=100_000)] = 400
    """Held-out scenarios of each behaviour in one round."""
    max_rounds: Annotated[int, Field(ge=1, le=100)] = 3
    """Rounds while the verdict is inconclusive; after the last one the update is undone."""
    abilities: Annotated[int, Field(ge=0)] = 188
    """Prompts (of 188) that the abilities of a model that is not the shipped one are measured on, before and
    after an update; 0 for none."""
    abilities_margin: Annotated[float, Field(ge=0, le=1)] = 0.10
    """Drop of the abilities' pass rate that matters. With 188 prompts a smaller one would refuse harmless
    updates."""
    margin: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Drop of a pass rate that matters (the non-inferiority margin)."""
    perplexity: Annotated[float, Field(ge=1, le=1000)] = 1.10
    """Largest ratio of the perplexity on ordinary text, after to before."""
    drift: Annotated[float, Field(ge=0)] = 1.5
    """Largest move of one concept's mean reading, in standard deviations over the probe set."""
    joint_drift: Annotated[float, Field(ge=0)] = 0.5
    """Largest distance that all readings may move together, in standard deviations per concept."""


@dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """Readings beside those on the probe set."""

    __pydantic_config__ = _FORBID

    enabled: bool = True
    """Whether a night reads the turns of conversations and its attempts. The probe set is always read."""
    turns: Annotated[int, Field(ge=0)] = 2000
    """Largest number of turns that one night reads, by whole conversations, those with a signal first.
    The rest waits."""
    attempts: Annotated[int, Field(ge=0)] = 256
    """Largest number of attempts that one night reads, drawn evenly."""
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the conversations that are read at all, drawn by their ids."""
    reestimate_nights: Annotated[int, Field(ge=0)] = 14
    """Nights after which the concept vectors are estimated again on the current weights; 0 is never."""
    exchanges: Annotated[int, Field(ge=1)] = 64
    """Exchanges of ordinary dialogue (of 284) that the perplexity is taken on, before and after an update, of
    a model that is not the shipped one."""
    locate: bool = True
    """Whether each update is followed by a search for where in the weights it lies."""


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """The service's HTTP on the loopback interface, beside its unix socket."""

    __pydantic_config__ = _FORBID

    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port on loopback; 0 takes any free port and reports which."""
    capture: bool = True
    """Whether conversations that go through `/v1/chat/completions` are captured as logs."""


class Settings(BaseSettings):
    """The configuration of a home."""

    model_config = SettingsConfigDict(
        env_prefix="NIGHTSCHOOL_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    """Seed of every draw of a night, unless `night --seed` gives another."""
    database: str = ""
    """SQLAlchemy URL of the ledger; empty for `ledger.db` in the home."""
    model: ModelSettings = Field(default_factory=ModelSettings)
    ingest: IngestSettings = Field(default_factory=IngestSettings)
    extractor: ExtractorSettings = Field(default_factory=ExtractorSettings)
    schedule: ScheduleSettings = Field(default_factory=ScheduleSettings)
    dreams: DreamSettings = Field(default_factory=DreamSettings)
    pairs: PairSettings = Field(default_factory=PairSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    checkpoints: CheckpointSettings = Field(default_factory=CheckpointSettings)
    verdict: VerdictSettings = Field(default_factory=VerdictSettings)
    monitor: MonitorSettings = Field(default_factory=MonitorSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)

    @property
    def trains(self) -> bool:
        """Whether updates are made: on a user's own vLLM only if `training.enabled` is true."""
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
        """Put the environment before the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(config_file: Path) -> Settings:
    """Return the effective configuration of a home."""
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
    """Return the place and the cure of the first value that was refused."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "configuration"
    for bound, words in BOUNDS.items():
        if bound in first.get("ctx", {}):
            limit = str(first["ctx"][bound]).removesuffix(".0")
            return f"{place} must be {words} {limit}, not {first['input']}"
    return f"{place}: {first['msg']}"


def shown(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON, without the passwords in them."""
    value = settings.model_dump(mode="json")
    for table in (value["extractor"], value["model"]):
        if table["api_key"]:
            table["api_key"] = "(set)"
    if value["database"]:
        value["database"] = make_url(value["database"]).render_as_string(hide_password=True)
    return value


def _refuse_unknown_variables() -> None:
    """Raise `ConfigError` for a misspelt variable, which pydantic would ignore."""
    for name in os.environ:
        section, *keys = name.upper().removeprefix("NIGHTSCHOOL_").split("__")
        if not name.upper().startswith("NIGHTSCHOOL_") or name == "NIGHTSCHOOL_HOME":
            continue
        field = Settings.model_fields.get(section.lower())
        if field is None or (keys and field.default_factory is None):
            raise ConfigError(f"the environment variable {name} is not a setting; see `nightschool config`")
