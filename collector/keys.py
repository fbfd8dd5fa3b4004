"""Keys: the collector's own pair and the list of agents it lets in, in one private folder.

    collector.json   the collector's CURVE pair, made on first use; agents know the collector by its public half
    agents.json      name and public key of every agent's key, also of revoked ones; secrets leave with `create`

A running collector sees each change of the list.
"""

import logging
import time
from pathlib import Path

import msgspec
import zmq

from collector.errors import AccessError
from collector.log import event
from collector.private_folder import PrivateFolder
from probe_wire.agent_key import AgentKey

MAX_KEYS = 10_000
PAIR, AGENTS = "collector.json", "agents.json"


class ListedKey(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's key as the collector knows it. Times are Unix seconds."""

    name: str
    public: str
    made_at: float
    revoked_at: float | None = None


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A CURVE key pair in Z85."""

    public: str
    secret: str

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Pair(public={self.public!r})"


class Keys:
    """See the module.

    Raises:
        AccessError: others may read or change what is kept here, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = PrivateFolder(folder)
        self._signature: tuple[int, ...] | None = None
        self._listed: tuple[ListedKey, ...] = ()
        self._names: dict[str, str] = {}
        self._known: frozenset[str] = frozenset()
        self._unreadable = False
        self._read()

    @property
    def in_use(self) -> bool:
        """A key was ever made here: who has none is not let in, also after the last was revoked."""
        return bool(self._listed)

    @property
    def listed(self) -> tuple[ListedKey, ...]:
        """Every key, in the order they were made."""
        return self._listed

    def name_of(self, public: str) -> str | None:
        """Whose key this is; None for one that is not listed or was revoked."""
        return self._names.get(public)

    def knows(self, public: str) -> bool:
        """Whether the key was ever listed; one that has no name was revoked."""
        return public in self._known

    def refresh(self) -> bool:
        """Take in what another process has changed since; whether there was anything.

        A list that cannot be read now, for want of file descriptors say, leaves the last one in force and is logged.
        """
        try:
            changed = self._read()
        except AccessError as error:
            if not self._unreadable:
                event("keys.unreadable", logging.ERROR, detail=str(error))
            self._unreadable = True
            return False
        self._unreadable = False
        return changed

    def pair(self) -> Pair:
        """The collector's own pair."""
        with self._folder.locked():
            if self._folder.signature(PAIR) is None:
                public, secret = (half.decode() for half in zmq.curve_keypair())
                self._folder.replace(PAIR, msgspec.json.encode(Pair(public=public, secret=secret)))
        try:
            return msgspec.json.decode(self._folder.read(PAIR), type=Pair)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise AccessError(
                f"Got the collector's own key {self._folder.path / PAIR}, which is damaged: {error}. Restore it from a backup; "
                "if it is removed a new one is made, and every agent needs a new key."
            ) from error

    def create(self, name: str) -> AgentKey:
        """A key for an agent, listed from now on. Its secret is nowhere but in what is returned.

        Raises:
            AccessError: the name has a key already, or there are too many.
        """
        collector = self.pair().public
        public, secret = (half.decode() for half in zmq.curve_keypair())
        try:
            key = msgspec.convert({"name": name, "collector": collector, "public": public, "secret": secret}, AgentKey)
        except msgspec.ValidationError as error:
            raise AccessError(
                f"Got the name {name!r}; need 1 to 64 letters, digits, dots, dashes and underscores, such as lab-1."
            ) from error
        with self._folder.locked():
            self._read()
            if name in self._names.values():
                raise AccessError(
                    f"Got the name {name!r}, which has a key already. Revoke that first, or choose another name."
                )
            if len(self._listed) >= MAX_KEYS:
                raise AccessError(f"Got one key more than {MAX_KEYS:,}. Give a team one key instead of one each.")
            self._replace((*self._listed, ListedKey(name=name, public=public, made_at=time.time())))
        return key

    def revoke(self, name: str) -> None:
        """Let the key's agents in no more. A running collector follows within seconds.

        Raises:
            AccessError: no key of this name is in force.
        """
        with self._folder.locked():
            self._read()
            if name not in self._names.values():
                known = ", ".join(sorted(self._names.values())) or "none"
                raise AccessError(f"Got the name {name!r}, which has no key in force; in force are: {known}.")
            self._replace(tuple(_revoked(key) if key.name == name else key for key in self._listed))

    def _replace(self, listed: tuple[ListedKey, ...]) -> None:
        self._folder.replace(AGENTS, msgspec.json.format(msgspec.json.encode(listed)))
        self._read()

    def _read(self) -> bool:
        signature = self._folder.signature(AGENTS)
        if signature == self._signature:
            return False
        listed: tuple[ListedKey, ...] = ()
        if signature is not None:
            try:
                listed = msgspec.json.decode(
                    self._folder.read(AGENTS, limit=MAX_KEYS * 300), type=tuple[ListedKey, ...]
                )
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise AccessError(
                    f"Got the list of keys {self._folder.path / AGENTS}, which is damaged: {error}. "
                    "Restore it from a backup, or remove it and make new keys."
                ) from error
        self._signature = signature
        self._listed = listed
        self._names = {key.public: key.name for key in listed if key.revoked_at is None}
        self._known = frozenset(key.public for key in listed)
        return True


def _revoked(key: ListedKey) -> ListedKey:
    return key if key.revoked_at is not None else msgspec.structs.replace(key, revoked_at=time.time())
