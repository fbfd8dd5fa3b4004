"""What can be wrong with a message.

WireError
├── UnknownVersion    another release speaks on the other side
├── MessageTooLarge   refused before anything is decoded
└── BadMessage        the bytes break the schema
"""


class WireError(Exception):
    """A message that cannot be read."""


class UnknownVersion(WireError):
    """The version byte is not one this release speaks."""


class MessageTooLarge(WireError):
    """The message is longer than ``MAX_MESSAGE_BYTES``."""


class BadMessage(WireError):
    """The bytes are not a message of the schema."""
