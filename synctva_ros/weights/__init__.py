"""The trained networks that come with the package, each in a folder; :mod:`.files` reads and writes such folders."""

from pathlib import Path

#: Folder of all weights that come with the package.
WEIGHTS = Path(__file__).parent
#: Those of the emotion network.
SHIPPED_WEIGHTS = WEIGHTS / "synctva"
#: Names of what the text encoder was fine-tuned to, and of the weights of the voice and the face encoder.
TEXT, VOICE, FACE = "text_feelings", "voice_emotion", "face_expression"
#: Of the voice encoder that hears with a recogniser's layers.
VOICE_STATES = "voice_states"
#: Of the network that finds turns, and of the one that tells voices apart.
SEGMENTATION, VOICEPRINT = "segmentation", "voiceprint"


class WeightsError(ValueError):
    """Weights cannot be used; the message says what is wrong, where, and what to do."""
