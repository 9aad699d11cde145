"""Sound → utterance → words."""
