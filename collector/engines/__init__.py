"""Engines: databases that hold what one machine no longer can; the collector's store stays the record they are filled from."""
