"""Validation: every variant on the same clips and the same noise, and the files of scores."""
