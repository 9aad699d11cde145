"""What was recognised against the truth; the figures are reckoned by hand here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synctva_ros.apps import cli
from synctva_ros.evaluation.score import figures, judge
from synctva_ros.events import EMOTIONS
from synctva_ros.sources.files import LineWriter, shown


def said(file: str, label: str, share: float = 0.76, start: float = 0.0, end: float = 0.0) -> dict[str, Any]:
    """An utterance with ``label`` as the likeliest class."""
    shares = {name: (1 - share) / 6 for name in EMOTIONS} | {label: share}
    return {
        "file": file,
        "labels": list(EMOTIONS),
        "probabilities": [float(f"{value:.7g}") for value in shares.values()],
        "status": "FINAL" if share >= 0.3 else "UNCERTAIN",
        "stream_start": start,
        "stream_end": end,
    }


def write(folder: Path, lines: list[dict[str, Any]], labels: str = "") -> tuple[Path, Path]:
    (folder / "r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "l.csv").write_text(labels)
    return folder / "r.jsonl", folder / "l.csv"


def test_files_without_an_answer_are_wrong(tmp_path: Path) -> None:
    lines = [said("in/a.wav", "joy"), said("in/b.wav", "joy"), said("in/c.wav", "anger", 0.2), said("in/x.wav", "fear")]
    table = "file,actor,emotion\na.wav,1,happy\nb.wav,1,calm\nc.wav,2,Angry\nd.wav,2,angry\ne.wav,2,joy\n"
    warnings: list[str] = []
    found = judge(*write(tmp_path, lines, table), warnings.append)
    assert warnings == ["left out: 1 file without a label, such as in/x.wav"]
    assert found.files == ("a.wav", "b.wav", "c.wav", "d.wav", "e.wav")
    assert found.answered.tolist() == [True, True, True, False, False]
    reached = figures(found)
    assert (reached["n"], reached["answered"], reached["no_answer"]) == (5, 3, 2)
    assert reached["accuracy"] == pytest.approx(2 / 5)
    assert reached["answered_only"]["accuracy"] == pytest.approx(2 / 3)
    assert {name: of["recall"] for name, of in reached["recall"].items() if of["n"]} == {
        "neutral": 0,
        "joy": 0.5,
        "anger": 0.5,
    }
    assert reached["unweighted_recall"] == pytest.approx((0 + 1 / 2 + 1 / 2) / 3)
    assert reached["answered_only"]["unweighted_recall"] == pytest.approx((0 + 1 + 1) / 3)
    # F1: joy has precision 1/2 and recall 1/2, anger 1 and 1/2, neutral none.
    assert reached["macro_f1"] == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)
    assert reached["weighted_f1"] == pytest.approx((1 * 0 + 2 * 1 / 2 + 2 * 2 / 3) / 5)
    # Two answers with 0.76, one of them right, and one with 0.2, right.
    assert reached["ece"] == pytest.approx((2 * abs(0.76 - 0.5) + (1 - 0.2)) / 3, abs=1e-6)
    assert reached["uncertain"] == pytest.approx(1 / 3)
    assert reached["accuracy_if_certain"] == pytest.approx(1 / 2)
    confusion = reached["confusion"]
    assert confusion["said"] == [*EMOTIONS, "no answer"]
    counts = np.array(confusion["counts"])
    assert counts.sum() == 5
    assert counts[EMOTIONS.index("anger")].tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert counts[EMOTIONS.index("neutral"), EMOTIONS.index("joy")] == 1


def test_intervals_are_of_persons_where_they_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two of four persons all is right, of two nothing is: with 40 files each there is little chance in it."""
    lines = [said(f"{person}{i}.wav", "joy" if person in "ab" else "fear") for person in "abcd" for i in range(40)]
    rows = [f"{person}{i}.wav,{person},joy" for person in "abcd" for i in range(40)]
    recognised, labels = write(tmp_path, lines, "\n".join(["file,actor,emotion", *rows]))
    by_person = figures(judge(recognised, labels, pytest.fail))
    assert by_person["groups"] == {"unit": "person", "n": 4}
    labels.write_text(labels.read_text().replace("actor", "whoever"))
    by_file = figures(judge(recognised, labels, pytest.fail))
    assert by_file["groups"] == {"unit": "file", "n": 160}
    widths = [high - low for low, high in (each["intervals"]["accuracy"] for each in (by_person, by_file))]
    assert by_person["accuracy"] == by_file["accuracy"] == 0.5
    assert widths[0] > 0.9
    assert 0.1 < widths[1] < 0.2
    labels.write_text(labels.read_text().replace("whoever", "actor"))
    assert cli.main(["score", str(recognised), "--labels", str(labels)]) == 0
    printed = capsys.readouterr().out
    assert "160 files of 4 persons" in printed
    assert "95 % interval over the persons" in printed


def test_utterances_of_a_file_count_by_their_duration(tmp_path: Path) -> None:
    lines = [said("a.wav", "joy", 0.9, 0, 1), said("a.wav", "fear", 0.5, 2, 5), said("b.png", "joy", 0.4)]
    lines += [said("c.wav", "joy", 0.2, 0, 1), said("c.wav", "joy", 0.25, 1, 2)]
    found = judge(*write(tmp_path, lines, "file,emotion\na.wav,fear\nb.png,joy\nc.wav,joy\n"), pytest.fail)
    joy, fear = EMOTIONS.index("joy"), EMOTIONS.index("fear")
    assert found.probabilities[0, joy] == pytest.approx((1 * 0.9 + 3 * 0.5 / 6) / 4, abs=1e-6)
    assert found.probabilities[0, fear] == pytest.approx((1 * 0.1 / 6 + 3 * 0.5) / 4, abs=1e-6)
    assert [answer.uncertain for answer in found.answers if answer] == [False, False, True]
    assert figures(found)["accuracy"] == 1


def test_the_folder_may_be_the_class(tmp_path: Path) -> None:
    tree = tmp_path / "test"
    for name in ("happy/1.jpg", "happy/2.jpg", "angry/1.jpg", "angry/readme.txt"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    lines = [said(str(tree / "happy/1.jpg"), "joy"), said(str(tree / "angry/1.jpg"), "joy")]
    recognised, _ = write(tmp_path, lines)
    found = figures(judge(recognised, None, pytest.fail))
    assert (found["n"], found["no_answer"], found["accuracy"]) == (2, 0, 0.5)
    found = figures(judge(recognised, tree, pytest.fail))
    assert (found["n"], found["no_answer"]) == (3, 1)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["recall"]["joy"] == {"recall": 0.5, "n": 2}


@pytest.mark.parametrize(
    ("lines", "table", "reason"),
    [
        ([], "file,emotion\na,joy\n", r"r\.jsonl: there are no utterances in it"),
        (
            [said("a", "joy")],
            "file,emotion\na,bored\nb,x\n",
            r"l\.csv: 2 of 2 .*none of neutral.*line 2: 'bored', line 3",
        ),
        ([{"file": "a"}], "file,emotion\na,joy\n", r"r\.jsonl, line 1: it is no utterance \(KeyError: 'labels'\)"),
        ([[1]], "file,emotion\na,joy\n", r"r\.jsonl, line 1: it is no utterance"),
        ([said("a", "joy"), said("b", "joy") | {"labels": ["x"]}], "file,emotion\na,joy\n", "line 2: .* other classes"),
        ([said("a", "joy") | {"probabilities": [1.0]}], "file,emotion\na,joy\n", "line 1: .* other classes"),
        ([said("a", "joy")], "file,label\na,joy\n", r"l\.csv, line 1: column emotion is missing"),
        (
            [said("a", "joy")],
            "file,emotion\nb,joy\n",
            r"none of its 1 file, such as b, is in .*r\.jsonl, which names a",
        ),
        ([said("x/a", "joy"), said("y/a", "joy")], "file,emotion\na,joy\n", r"l\.csv: a may be x/a or y/a"),
        ([said("a", "joy") | {"probabilities": [1.0] * 7}], "file,emotion\na,joy\n", "sums to 7"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    tmp_path: Path, lines: list[Any], table: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recognised, labels = write(tmp_path, lines, table)
    assert cli.main(["score", str(recognised), "--labels", str(labels)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert re.search(reason, captured.err), captured.err


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [said("in/a.wav", "joy"), said("in/b.wav", "joy"), said("in/c.wav", "anger", 0.2)]
    recognised, labels = write(tmp_path, lines, "file,emotion\na.wav,happy\nb.wav,fear\nc.wav,angry\nd.wav,angry\n")
    line = ["score", str(recognised), "--labels", str(labels), "--json", str(tmp_path / "o/f.json")]
    assert cli.main([*line, "--report", str(tmp_path / "o/r.html")]) == 0
    printed = capsys.readouterr().out
    assert "4 files, 1 of them without an answer, which counts as wrong" in printed
    assert re.search(r"accuracy, % +50\.0 \(0\.0 to 100\.0\) +66\.7 without those", printed)
    assert "joy (100.0 %)" in printed, "what fear is taken for"
    written = json.loads((tmp_path / "o/f.json").read_text())
    assert written["accuracy"] == 0.5
    assert [item["item"] for item in written["predictions"]["items"]] == ["a.wav", "b.wav", "c.wav", "d.wav"]
    assert written["predictions"]["items"][3]["probabilities"] is None
    page = (tmp_path / "o/r.html").read_text()
    assert "Of 1 of 4 files nothing was said" in page
    assert "accuracy to 50.0 %" in page
    assert page.count("<picture>") == 3


def test_rows_of_other_classes_are_named_and_the_rest_is_scored(tmp_path: Path) -> None:
    lines = [said(f"in/{name}.wav", "joy") for name in "abcdefg"]
    rows = "a.wav,joy\nb.wav,bored\nc.wav,happy\nd.wav,contempt\ne.wav,bored\nf.wav,?\n"
    warnings: list[str] = []
    recognised, labels = write(tmp_path, lines, "file,emotion\n" + rows)
    found = judge(recognised, labels, warnings.append)
    assert found.files == ("a.wav", "c.wav")
    assert figures(found)["accuracy"] == 1
    assert warnings == [
        f"{labels}: 4 of 6 files have a class that is none of {', '.join(EMOTIONS)} (line 3: 'bored', "
        "line 5: 'contempt', line 6: 'bored', ...); left out",
        "left out: 1 file without a label, such as in/g.wav",
    ]


def test_folders_of_other_classes_are_named_and_the_rest_is_scored(tmp_path: Path) -> None:
    tree = tmp_path / "set"
    for name in ("happy/1.wav", "unsorted/2.wav"):
        (tree / name).parent.mkdir(parents=True)
        (tree / name).touch()
    recognised, _ = write(tmp_path, [said(str(tree / "happy/1.wav"), "joy"), said(str(tree / "unsorted/2.wav"), "joy")])
    for labels in (tree, None):
        warnings: list[str] = []
        assert figures(judge(recognised, labels, warnings.append))["n"] == 1
        assert len(warnings) == 1
        assert "1 of 2 files has a class" in warnings[0]
        assert "unsorted/2.wav: 'unsorted'" in warnings[0]


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x1e", "\r"])
def test_only_a_line_feed_ends_a_line(tmp_path: Path, character: str) -> None:
    path = tmp_path / "r.jsonl"
    with LineWriter(path) as file:
        for name in "ab":
            file.write(said(f"{name}{character}.wav", "joy") | {"text": f"Oh{character}no"})
    assert path.read_bytes().count(b"\n") == 2
    (tmp_path / "l.csv").write_text(f'file,emotion\n"a{character}.wav",joy\nb.wav,fear\n', encoding="utf-8", newline="")
    assert judge(path, tmp_path / "l.csv", lambda sentence: None).files[0] == f"a{character}.wav"


def test_what_other_programs_do_to_lines_does_not_matter(tmp_path: Path) -> None:
    lines = [json.dumps(said(f"{name}.wav", "joy")) for name in "ab"]
    (tmp_path / "l.csv").write_text("file,emotion\na.wav,joy\nb.wav,fear\n")
    (tmp_path / "r.jsonl").write_bytes(("\ufeff" + "\r\n".join([*lines, "", ""])).encode())
    assert len(judge(tmp_path / "r.jsonl", tmp_path / "l.csv", pytest.fail).files) == 2
    (tmp_path / "r.jsonl").write_bytes(b"\n".join([lines[0].encode(), b'{"file": "Stra\xdfe.wav"}']))
    with pytest.raises(ValueError, match=r"r\.jsonl, line 2: it is no utterance"):
        judge(tmp_path / "r.jsonl", tmp_path / "l.csv", pytest.fail)


def test_a_name_that_is_not_utf_8_is_labelled_by_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "set/joy"
    folder.mkdir(parents=True)
    path = Path(os.fsdecode(os.fsencode(folder) + b"/Stra\xdfe.wav"))
    path.touch()
    write(tmp_path, [said(shown(path), "joy")])
    found = judge(tmp_path / "r.jsonl", tmp_path / "set", pytest.fail)
    assert found.files == ("joy/Stra\\xdfe.wav",)
    assert figures(found)["accuracy"] == 1


def test_no_training_package_is_needed(tmp_path: Path) -> None:
    """In another process, where those of the extra cannot be imported."""
    recognised, labels = write(
        tmp_path, [said("a.wav", "joy"), said("b.wav", "joy")], "file,emotion\na.wav,joy\nb.wav,fear\n"
    )
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('matplotlib', 'tensorboard', 'tqdm')));"
        "from synctva_ros.apps import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    line = [sys.executable, "-c", program, "score", str(recognised), "--labels", str(labels)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parents[3], timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "accuracy, %" in done.stdout
    done = subprocess.run(
        [*line, "--report", str(tmp_path / "r.html")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "--report draws with matplotlib, which is not here" in done.stderr
    assert "pip install 'synctva-ros[train]', or leave it out" in done.stderr
    assert not (tmp_path / "r.html").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_reported_with_the_name_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recognised, labels = write(tmp_path, [said("a.wav", "joy")], "file,emotion\na.wav,joy\n")
    for option in ("--json", "--report"):
        assert cli.main(["score", str(recognised), "--labels", str(labels), option, "/dev/full"]) == 1
        assert (
            "synctva: /dev/full: it cannot be written (No space left on device); make room" in capsys.readouterr().err
        )
