"""What is run from the command line: run, recognize, demo, and what a person sees of it."""
