"""The post: carries numbered messages to the collector, and keeps them on disk until they are committed.

What an agent and a relay have in common. Depends on the wire, ZeroMQ and numpy; knows nothing of what the messages mean.
"""
