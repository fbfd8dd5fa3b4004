"""Studies: measurements of a question, not of a step. They train networks of their own and run beside no training."""
