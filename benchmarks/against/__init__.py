"""The parts of `benchmarks/estimators.py`: what is measured, on what, against whom."""
