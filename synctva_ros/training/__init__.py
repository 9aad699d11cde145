"""Training on corpora and synthesised speech."""
