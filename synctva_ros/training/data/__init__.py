"""Corpora: one reader each, behind one protocol."""
