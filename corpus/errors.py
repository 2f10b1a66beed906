"""Every error that Nightschool raises on purpose, in one tree.

The class of an error gives the exit code of the command; the message says what is wrong and what to do next.

    NightschoolError          1   the command failed
    ├── UsageError            2   the command or the configuration is wrong
    │   ├── ConfigError           a value in config.toml, the environment or a behaviour file
    │   └── UnknownId             no checkpoint, update or pair has this id
    ├── LogRefused            3   a log that cannot be read at all
    ├── NoHome               10   there is no Nightschool home at this path
    ├── HomeLocked           11   another process holds this home
    ├── IntegrityFault       12   a file is not what its digest says
    │   └── UnsafeModel           a model directory that would run code or hides a pickle
    ├── GateRefused          13   a precondition does not hold (disk space, memory, a damaged target)
    ├── ModelUnavailable      1   the served model does not answer
    ├── ServiceAway           1   no service answers for this home
    ├── WriteFailed           1   a file cannot be written (a full disk, a limit)
    └── TrainerFault          1   the trainer refused or failed a request
        └── StepRefused           a training step is not finite or over the norm cap
            └── UpdateCancelled       the update was cancelled between two steps
"""


class NightschoolError(Exception):
    """A command that failed; the base of the tree (exit code 1)."""

    exit_code = 1


class UsageError(NightschoolError):
    """A command that cannot work as it was given (exit code 2)."""

    exit_code = 2


class ConfigError(UsageError):
    """A wrong value in config.toml, the environment or a behaviour file (exit code 2)."""


class UnknownId(UsageError):
    """An id that nothing in the ledger has (exit code 2)."""


class LogRefused(NightschoolError):
    """A log file that is in no known format; a single bad line is skipped instead (exit code 3)."""

    exit_code = 3


class NoHome(NightschoolError):
    """A path without a Nightschool home; `nightschool init` makes one (exit code 10)."""

    exit_code = 10


class HomeLocked(NightschoolError):
    """A home that another process holds (exit code 11)."""

    exit_code = 11


class IntegrityFault(NightschoolError):
    """A file that does not match its digest or cannot be read (exit code 12)."""

    exit_code = 12


class UnsafeModel(IntegrityFault):
    """A model directory that would run code or hides a pickle (exit code 12)."""


class GateRefused(NightschoolError):
    """A precondition that does not hold, found before anything was changed (exit code 13)."""

    exit_code = 13


class ModelUnavailable(NightschoolError):
    """A served model that does not answer (exit code 1)."""


class ServiceAway(NightschoolError):
    """A home for which no service answers (exit code 1)."""


class WriteFailed(NightschoolError):
    """A file that could not be written; nothing of it was kept (exit code 1)."""


class TrainerFault(NightschoolError):
    """A request that the trainer refused or failed (exit code 1)."""


class StepRefused(TrainerFault):
    """A training step that is not finite or over the norm cap; the weights are as before (exit code 1)."""


class UpdateCancelled(StepRefused):
    """An update that was cancelled between two steps; the weights are as before (exit code 1)."""
