"""Adapters to frameworks that own the training loop; each needs its framework, and nothing here imports one by itself."""
