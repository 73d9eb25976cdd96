"""Files, locks and errors: what knows of disks and processes, and nothing of audio, models or configurations."""
