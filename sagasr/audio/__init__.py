"""Recordings and signals: reading and writing files, spectra, and how low is made from high. Nothing is imported here."""
