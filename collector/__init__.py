"""The right wing: keeps what agents report, finds phase transitions, shows them. Never imports torch."""
