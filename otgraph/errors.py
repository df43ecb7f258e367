"""Every error a user can meet, and the exit code it ends a command with.

A message says what was wrong, where (file, tensor or node) and what to do; lower case, context first.
"""

from __future__ import annotations


class OtgraphError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is what the command line returns for it."""

    exit_code = 2


class UsageError(OtgraphError):
    """An option or argument that cannot be used as given."""


class ModelError(OtgraphError):
    """A model file or module that cannot be read, run or written."""


class DataError(OtgraphError):
    """Calibration or evaluation data that does not fit the model."""


class PlanError(OtgraphError):
    """A plan that cannot be read, or belongs to another model."""


class PipelineError(OtgraphError):
    """A pipeline text, pass name or pass option that is wrong."""


class PassError(OtgraphError):
    """A pass that broke its contract: the graph it returned is not what it claimed."""


class OutputError(OtgraphError):
    """An output that cannot be written where it was asked for."""


class EngineMissing(OtgraphError):
    """The engine or device that was asked for is not available here."""

    exit_code = 3


class DataConverted(UserWarning):
    """Says that an array was converted to the type that the model wants."""
