"""Curves with known truth: what a detector of phases is judged on, and the best any detector could do."""
