"""How good something is: one module of figures for networks, encoders and recordings."""
