"""What the nodes, ``recognize`` and the trainings use unless they are told otherwise."""

from pathlib import Path

#: Folder of all weights that come with the package.
WEIGHTS = Path(__file__).parent / "weights"
#: Weights of the emotion network.
SHIPPED_WEIGHTS = WEIGHTS / "synctva"
#: What the text encoder was taught: name of a shipped adapter.
TEXT_ADAPTER = "text_feelings"
#: With less confidence the status is UNCERTAIN.
UNCERTAIN_BELOW = 0.3
