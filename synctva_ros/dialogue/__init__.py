"""What is remembered between utterances."""
