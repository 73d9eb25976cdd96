"""Files, locks, logs and errors: everything that knows of disks and processes, and nothing of audio or models."""
