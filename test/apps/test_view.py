"""What is shown of a message in a terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from synctva_ros.apps.view import BAR, COLOURS, FILE, bar, provisional_line, shortened, show, show_line
from synctva_ros.events import EMOTIONS


def emotion(**changes):
    message = {
        "speaker_id": "",
        "person_id": "",
        "dialogue_id": "d1",
        "turn": 3,
        "stream_start": 5.44,
        "stream_end": 7.27,
        "status": "FINAL",
        "text": "I got the [job] and I am so happy!",
        "label": "joy",
        "labels": list(EMOTIONS),
        "probabilities": [0.05, 0.6, 0.05, 0.1, 0.1, 0.05, 0.05],
        "contributions": [0.5, 0.3, 0.2],
        "modalities": 7,
        "stages": ["turns", "total"],
        "durations": [0.5, 0.82],
    }
    return message | changes


def rendered(**changes):
    console = Console(file=StringIO(), width=100, highlight=False)
    show(console, emotion(**changes))
    return console.file.getvalue()


def test_all_that_a_person_wants_to_know_is_there():
    text = rendered()
    for part in ("d1 turn 3", "someone", "5.4 to 7.3 s", "FINAL", "“I got the [job] and I am so happy!”"):
        assert part in text
    assert "words 50%, voice 30%, face 20%" in text
    assert "answer 0.82 s after the last word" in text


def test_who_is_still_speaking_has_one_short_line():
    console = Console(file=StringIO(), width=100, highlight=False)
    for confidence in (0.6, 0.2):
        console.print(provisional_line(emotion(status="PROVISIONAL", text="", modalities=6, confidence=confidence)))
    sure, unsure = console.file.getvalue().splitlines()
    assert sure.strip() == "speaking for 1.8 s  joy 60%  voice 30%, face 20%"
    assert "joy? 20%" in unsure


def test_there_is_a_bar_for_each_class_and_a_mark_at_the_chosen_one():
    lines = {label: next(line for line in rendered().splitlines() if label in line) for label in EMOTIONS}
    assert len(set(lines.values())) == len(EMOTIONS) == 7
    lengths = {label: line.count("█") for label, line in lines.items()}
    assert lengths["joy"] == int(0.6 * BAR)
    assert lengths["anger"] == int(0.1 * BAR)
    assert [label for label, line in lines.items() if "▶" in line] == ["joy"]
    assert " 60%" in lines["joy"]
    assert set(COLOURS) == set(EMOTIONS)


def test_when_it_is_uncertain_no_class_is_marked():
    text = rendered(status="UNCERTAIN")
    assert "UNCERTAIN" in text
    assert "▶" not in text


def test_without_words_it_says_so():
    text = rendered(text="", modalities=6, contributions=[0.0, 0.6, 0.4])
    assert "(no words)" in text
    assert "“" not in text
    assert "voice 60%, face 40%" in text
    assert "words 0%" not in text


def test_with_nothing_to_go_by_it_says_so():
    assert "nothing to go by" in rendered(modalities=0, contributions=[0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("who", "shown"),
    [
        ({"speaker_id": "anna"}, "anna"),
        ({"person_id": "p7"}, "p7"),
        ({"speaker_id": "anna", "person_id": "p7"}, "anna"),
    ],
)
def test_who_it_is_is_shown_if_known(who, shown):
    assert f"  {shown}  " in rendered(**who)


@pytest.mark.parametrize("durations", [{"stages": [], "durations": []}, {"stages": ["total"], "durations": [-5.0]}])
def test_without_a_usable_latency_there_is_none(durations):
    assert "answer" not in rendered(**durations)


def line(**changes):
    console = Console(file=StringIO(), width=40, highlight=False)
    show_line(console, emotion(file="in/clip.mp4", confidence=0.6, **changes))
    return console.file.getvalue()


def test_an_estimate_of_a_file_is_one_line():
    assert line() == (
        f"{'in/clip.mp4':{FILE}}   5.4 to   7.3 s  joy        60% {'█' * 8}▍      words 50%, voice 30%, face 20%"
        "  “I got the [job] and I am so happy!”\n"
    )
    assert " joy?       60% " in line(status="UNCERTAIN")
    assert line(text="", modalities=4, contributions=[0, 0, 1]).endswith("face 100%\n")


def test_of_a_long_name_the_end_is_shown():
    assert shortened("folder/clip.mp4", 15) == "folder/clip.mp4"
    assert shortened("a/folder/clip.mp4", 15) == "…older/clip.mp4"


@given(st.floats(-10, 10), st.floats(-10, 10))
def test_a_bar_grows_with_its_share_and_is_never_too_long(one, other):
    def length(share):
        blocks = bar(share)
        assert all(block == "█" for block in blocks[:-1])
        return sum("▏▎▍▌▋▊▉█".index(block) + 1 for block in blocks)

    low, high = sorted((one, other))
    assert 0 <= length(low) <= length(high) <= 8 * BAR
    assert len(bar(high)) <= BAR
    assert length(min(max(one, 0), 1)) / 8 / BAR == pytest.approx(min(max(one, 0), 1), abs=1 / 16 / BAR + 1e-9)


@pytest.mark.parametrize(("share", "blocks"), [(0.0, ""), (1.0, "█" * BAR), (0.5, "█" * (BAR // 2))])
def test_the_ends_of_a_bar(share, blocks):
    assert bar(share) == blocks
