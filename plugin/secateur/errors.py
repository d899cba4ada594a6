"""One root error and one warning family.

Every error names the thing that is wrong and what is allowed instead. Each class also derives from the builtin that
a caller would expect, so `except ValueError` keeps working.
"""


class SecateurError(Exception):
    """Root of all errors that secateur raises on purpose."""


class ConfigError(SecateurError, ValueError):
    """A setting is unknown, malformed or contradicts another."""


class DataError(SecateurError, ValueError):
    """A data set, a batch or a feature map cannot be used: empty, one class, NaN, labels out of range."""


class NetworkError(SecateurError, ValueError):
    """A network cannot be loaded, traced or pruned."""


class BudgetError(SecateurError, ValueError):
    """A budget is malformed, already met, or below what can be reached."""


class ScoreError(SecateurError, ValueError):
    """Scores are missing, not finite, or do not fit the channels that they should rank."""


class StaleScoresError(ScoreError):
    """Scores were made for another structure of the network."""


class PlanError(SecateurError, ValueError):
    """A pruning plan is malformed or belongs to another network."""


class EvaluationError(SecateurError, RuntimeError):
    """A candidate of a search could not be valued: the evaluation failed or gave no finite number."""


class ProcessError(SecateurError, RuntimeError):
    """A result of several processes cannot be had: one of them failed, ended, or does something else."""


class JournalError(SecateurError, RuntimeError):
    """The journal of a search is of another search, is no journal, or cannot be read or written."""


class VerificationError(SecateurError):
    """A pruned network does not compute what the masked network computes."""


class CheckpointError(SecateurError, ValueError):
    """A saved network is truncated, foreign or does not fit the factory that should load it."""


class MissingDependencyError(SecateurError, ImportError):
    """An optional package is not installed; the message holds the command that installs it."""


class SecateurWarning(UserWarning):
    """Root of all warnings."""


class SaturationWarning(SecateurWarning):
    """A criterion gives many channels of a layer the same score, so that ties decide."""
