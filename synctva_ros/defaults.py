"""What the nodes, ``recognize`` and the trainings use unless they are told otherwise."""

from synctva_ros.weights import SHIPPED_WEIGHTS as SHIPPED_WEIGHTS
from synctva_ros.weights import TEXT

#: What the text encoder was fine-tuned to: name of a shipped adapter.
TEXT_ADAPTER = TEXT
#: With less confidence the status is UNCERTAIN.
UNCERTAIN_BELOW = 0.3
