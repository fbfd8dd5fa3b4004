"""The page: what the collector knows, for a browser. Asked over HTTP; told of news by server-sent events."""

from collector.web.app import create_app
from collector.web.feed import Feed

__all__ = ["Feed", "create_app"]
