"""Manifests, the encoded store and the draws that training takes from it. Nothing is imported here."""
