"""What lies in a sweep's folder: every path, and the form of every file. Imports nothing of the orchestrator."""
