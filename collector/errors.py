"""What the collector raises at its door.

CollectorError
├── ConfigError   a setting is unknown, of the wrong type or out of range
├── StoreError    the store file cannot be opened or is of another release
├── BindError     an address is taken or cannot be had
├── AccessError   a key, a token or a certificate is missing, damaged, or open to others
└── NotOwner      a run belongs to another key than the one that speaks for it
"""


class CollectorError(Exception):
    """Something the person who runs the collector can mend."""


class ConfigError(CollectorError):
    """A setting is unknown, of the wrong type or out of range; the message names it and where it came from."""


class StoreError(CollectorError):
    """The store file cannot be opened, is not ours, or was written by a newer release."""


class BindError(CollectorError):
    """An address cannot be listened on; the message says which, why, and how to choose another."""


class AccessError(CollectorError):
    """A key, a token or a certificate cannot be used or is not there; the message says which, why, and what to do."""


class NotOwner(CollectorError):
    """A run belongs to whom it was opened by; the message names the run, never the key."""
