"""The errors a user can cause. Each message is one line: the value, the place, the next action.

`launch/cli.py` prints the message on stderr and exits with `exit_code`; anything that is not a
`StunetError` is a bug of ours and keeps its traceback.
"""


class StunetError(Exception):
    """Base of all user errors."""

    exit_code = 2


class ConfigError(StunetError):
    """A recipe, an override or a command-line value is wrong."""


class VolumeError(StunetError):
    """An image or label file cannot be used as it is."""


class DataError(StunetError):
    """A raw data set or a store is incomplete, damaged or inconsistent."""


class CheckpointError(StunetError):
    """A run folder or a checkpoint cannot be continued from."""


class BundleError(StunetError):
    """A bundle is incomplete, damaged or does not fit its use."""


class TrainingError(StunetError):
    """Training cannot go on, for example after too many non-finite steps."""


class Preempted(StunetError):  # noqa: N818 - not an error: the run was saved and wants to be requeued
    """The run was asked to stop, saved its state and can be continued."""

    exit_code = 75  # EX_TEMPFAIL, what batch scripts requeue on
