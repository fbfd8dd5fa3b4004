"""Estimators: the mathematics behind the probes, with definitions, sources and known limits."""
