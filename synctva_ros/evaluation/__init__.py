"""What was said against the truth: one module of figures for networks, encoders and recordings. Trains nothing."""
