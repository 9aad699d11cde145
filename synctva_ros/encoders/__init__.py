"""Encoders: one utterance's words, voice and face, each as one vector."""
