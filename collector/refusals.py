"""Refusals: why the pipeline does not take a message that is well formed; its agent is told and does something about it."""


class UnknownSchema(Exception):
    """A report speaks of a schema the collector does not hold."""


class NoRoom(Exception):
    """As many runs report as may be in memory, or have as many series."""

    def __init__(self) -> None:
        super().__init__(
            "As many runs report as there may be in memory (limits.runs), or they have as many series (limits.series, at about 3.5 kB of "
            "the collector's memory each). Measure fewer layers, or start another collector."
        )


class UnknownStream(Exception):
    """The run of a stream is no longer in memory; its agent must greet again."""
