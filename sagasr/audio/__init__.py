"""Recordings and signals: files, spectra, and how low is made from high. Nothing is imported here."""
