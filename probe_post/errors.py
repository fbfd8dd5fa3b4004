"""What the post raises.

SpoolError    messages cannot be kept on disk (who wanted to keeps them in memory)
"""


class SpoolError(Exception):
    """The folder for messages that wait cannot be used; the message says why and what to do."""
