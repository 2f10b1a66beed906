"""Every error that Nightschool raises on purpose, in one tree.

A message says what is wrong and what to do next; the class fixes the exit code of the command line.

    NightschoolError          1   the command failed
    ├── UsageError            2   the command or the configuration was wrong
    │   ├── ConfigError           a value in config.toml, the environment or a behaviour file
    │   └── UnknownId             no such checkpoint, update or pair
    ├── LogRefused            3   a log that cannot be read at all (single bad lines are set aside)
    ├── NoHome               10   there is no Nightschool home at this place
    ├── HomeLocked           11   another service holds this home
    ├── IntegrityFault       12   a file is not what its digest says
    │   └── UnsafeModel           a model directory that would run code or hides a pickle
    ├── GateRefused          13   a gate said no (room, memory, a damaged target)
    ├── ModelUnavailable      1   the served model did not answer
    ├── ServiceAway           1   no service answers for this home
    ├── WriteFailed           1   a file could not be written (a full disk, a limit): nothing was kept
    └── TrainerFault          1   the trainer refused or failed a request
        └── StepRefused           a step was not finite or over the norm cap: nothing was kept
            └── UpdateCancelled       the update was cancelled between two steps: nothing was kept
"""


class NightschoolError(Exception):
    """The command failed; the message says what to do next."""

    exit_code = 1


class UsageError(NightschoolError):
    """The command was used in a way that cannot work."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration value or a behaviour file is wrong."""


class UnknownId(UsageError):
    """Nothing in the ledger has this id."""


class LogRefused(NightschoolError):
    """A log file cannot be read as any known format."""

    exit_code = 3


class NoHome(NightschoolError):
    """There is no home here: run `nightschool init` first."""

    exit_code = 10


class HomeLocked(NightschoolError):
    """Another service holds this home."""

    exit_code = 11


class IntegrityFault(NightschoolError):
    """A file does not match its digest."""

    exit_code = 12


class UnsafeModel(IntegrityFault):
    """A model directory would run code, or hides a pickle."""


class GateRefused(NightschoolError):
    """A gate refused the step; nothing was changed."""

    exit_code = 13


class ModelUnavailable(NightschoolError):
    """The served model did not answer."""


class ServiceAway(NightschoolError):
    """No service answers for this home."""


class WriteFailed(NightschoolError):
    """The disk would not take a file; nothing was kept of it."""


class TrainerFault(NightschoolError):
    """The trainer refused or failed a request."""


class StepRefused(TrainerFault):
    """A training step was not finite, or over the norm cap; the weights are as before."""


class UpdateCancelled(StepRefused):
    """The update was cancelled between two steps; the weights are as before."""
