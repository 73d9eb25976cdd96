"""A full configuration: its settings, patches on it, and which stage each setting belongs to."""
