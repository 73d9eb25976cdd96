"""Sweep folders in an object store: who may write there, and what is copied when."""
