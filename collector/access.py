"""Access: who must show what, decided when the collector starts, from where it listens and what its folder of keys holds."""

import ssl
from pathlib import Path

from collector.config import Config, inlet_is_local, is_local
from collector.errors import AccessError
from collector.keys import Keys
from collector.tokens import Tokens


def keys_asked_for(config: Config) -> Keys | None:
    """The keys agents must have; None where everybody is let in, on this machine and before the first key is made.

    Raises:
        AccessError: others can reach the inlet and there is no key, or the keys cannot be used.
    """
    keys = Keys(Path(config.security.keys))
    if keys.in_use:
        return keys
    if not inlet_is_local(config):
        raise AccessError(
            f"Got inlet.address = {config.inlet.address!r}, which others can reach, and no key in {config.security.keys}. Make "
            "one for your agents: probe-collector keys create NAME --out NAME.key"
        )
    return None


def tokens_asked_for(config: Config) -> Tokens | None:
    """The tokens page and API ask for; None on this machine, before there are any. Made where others can reach the page.

    Raises:
        AccessError: the tokens cannot be made or read.
    """
    tokens = Tokens(Path(config.security.keys))
    if not is_local(config.web.host):
        tokens.make()
    return tokens if tokens.in_use else None


def access_in_words(config: Config, keys: Keys | None, tokens: Tokens | None) -> str:
    """For a person who starts the collector: who comes in how."""
    here, folder = "everybody on this machine", config.security.keys
    agents = here if keys is None else f"by the keys in {folder}"
    page = here if tokens is None else f"by the tokens in {folder} (probe-collector tokens prints them)"
    return f"agents: {agents}; page: {page}"


def check_certificate(config: Config) -> None:
    """Try the page's certificate before anything is served.

    Raises:
        AccessError: it cannot be read, or its key is another's.
    """
    if not config.web.tls_cert:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.web.tls_cert, config.web.tls_key, password="")
    except OSError as error:  # ssl.SSLError is one
        raise AccessError(
            f"Got web.tls_cert = {config.web.tls_cert!r} and web.tls_key = {config.web.tls_key!r}, which cannot be used: {error}. "
            "Need a certificate chain and its unencrypted private key, both PEM files that the collector may read."
        ) from error
