"""Cells and seeds become trials: what is done, what is missing, whether it fits, and what it costs."""
