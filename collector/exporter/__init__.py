"""The exporter: what Prometheus sees when it asks. Built from Live at each scrape, so a run that left is gone by itself."""

from collector.exporter.catalogue import CATALOGUE
from collector.exporter.exporter import Exporter
from collector.exporter.text import CONTENT_TYPE

__all__ = ["CATALOGUE", "CONTENT_TYPE", "Exporter"]
