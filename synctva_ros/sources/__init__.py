"""Where sound and images come from: microphone, camera, media file."""

from __future__ import annotations

import uuid


def new_stream_id(prefix: str) -> str:
    """Short id of one run of a source; REP-155 wants ids to begin with a letter."""
    return prefix + uuid.uuid4().hex[:5]
