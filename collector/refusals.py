"""Refusals: why the pipeline does not take a message that is well formed; its agent is told and does something about it."""


class UnknownSchema(Exception):
    """A report speaks of a schema the collector does not hold."""


class TooManyRuns(Exception):
    """As many runs report as may be in memory."""


class UnknownStream(Exception):
    """The run of a stream is no longer in memory; its agent must greet again."""
