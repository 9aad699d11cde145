"""The picture of the estimates over time."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from synctva_ros.apps import timeline
from synctva_ros.apps.timeline import COLOURS, check_timeline, draw_timeline
from synctva_ros.events import EMOTIONS

matplotlib = pytest.importorskip("matplotlib")


def emotion(file: str, start: float = 0.0, end: float = 0.0, label: str = "joy", share: float = 0.6) -> dict[str, Any]:
    shares = {name: (1 - share) / 6 for name in EMOTIONS} | {label: share}
    return {
        "file": file,
        "stream_start": start,
        "stream_end": end,
        "labels": list(EMOTIONS),
        "label": label,
        "probabilities": list(shares.values()),
        "confidence": share,
        "status": "FINAL" if share > 0.3 else "UNCERTAIN",
    }


def texts(path: Path) -> str:
    """What is written in an SVG picture: matplotlib keeps it beside the outlines of the letters."""
    ElementTree.parse(path)
    return path.read_text()


def test_files_labels_and_times_are_written(tmp_path: Path) -> None:
    path = tmp_path / "t.svg"
    draw_timeline(
        [
            emotion("in/talk $1$.wav", 1, 3, "anger", 0.7),
            emotion("in/talk $1$.wav", 4, 6, "fear", 0.25),
            emotion("in/face.png", share=0.5),
        ],
        path,
    )
    text = texts(path)
    for part in ("in/talk $1$.wav", "anger 70%", "fear? 25%", "joy 50%", "in/face.png", "still images", "uncertain"):
        assert f"<!-- {part} -->" in text, part
    assert all(colour in text for colour in COLOURS.values())
    assert "not shown" not in text
    draw_timeline([emotion("in/face.png")], path)
    assert "uncertain" not in texts(path)


def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.svg"
    clips = [emotion(f"{number}.wav", 0, 2) for number in range(timeline.MAX_CLIPS + 3)]
    images = [emotion(f"{number}.png") for number in range(timeline.MAX_IMAGES + 5)]
    draw_timeline(clips + images, path)
    assert "not shown: 3 more clips and 5 more images" in texts(path)
    turns = timeline.MAX_UTTERANCES + 10
    draw_timeline([emotion("long.wav", 3 * turn, 3 * turn + 2) for turn in range(turns)], path)
    assert f"long.wav  (the first {timeline.MAX_UTTERANCES} of {turns} utterances)" in texts(path)


def test_a_bar_stands_over_its_time_and_sums_to_one() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    timeline._draw_clip(axes, [emotion("a.wav", 1, 3), emotion("a.wav", 4, 4.5, share=0.2)])
    boxes = np.array([patch.get_bbox().extents for patch in axes.patches])
    first, second, hatch = boxes[:7], boxes[7:14], boxes[14:]
    for bars, start, end in ((first, 1, 3), (second, 4, 4.5)):
        assert np.allclose(bars[:, 0], start)
        assert np.allclose(bars[:, 2], end)
        assert np.allclose(bars[1:, 1], bars[:-1, 3]), "one upon the other"
        assert bars[0, 1] == 0
        assert bars[-1, 3] == pytest.approx(1)
    assert hatch.tolist() == [[4, 0, 4.5, 1]]
    assert axes.patches[-1].get_hatch()


def test_labels_of_close_utterances_do_not_cover_each_other() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    timeline._draw_clip(axes, [emotion("a.wav", second, second + 0.9) for second in range(25)])
    places = [text.get_position() for text in axes.texts]
    end = axes.get_xlim()[1]
    for number, (x, y) in enumerate(places):
        assert 0 <= x <= end
        assert all(abs(x - a) >= timeline.LABEL * end - 1e-9 for a, b in places[:number] if b == y)
    assert max(y for _, y in places) < axes.get_ylim()[1]


def test_images_and_nothing_at_all_are_drawn(tmp_path: Path) -> None:
    for emotions in ([], [emotion("a.png")], [emotion("a.wav", 0, 1)]):
        draw_timeline(emotions, tmp_path / "t.PNG")
        assert (tmp_path / "t.PNG").read_bytes().startswith(b"\x89PNG")
    assert all(a != b for a in COLOURS.values() for b in timeline.OTHER)
    draw_timeline([emotion("a.wav", 0, 1) | {"labels": list("abcdefg"), "label": "a"}], tmp_path / "t.svg")
    assert timeline.OTHER[0] in texts(tmp_path / "t.svg")


def test_what_cannot_be_written_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"t\.pdf: a timeline is written as \.png or \.svg"):
        check_timeline(tmp_path / "t.pdf")
    with pytest.raises(ValueError, match="there is no folder"):
        check_timeline(tmp_path / "no/t.png")
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError("No module named 'matplotlib'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'synctva-ros\[train\]'"):
        check_timeline(tmp_path / "t.png")
