"""Which files are found, and tables of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synctva_ros.sources.files import (
    FileError,
    LineWriter,
    find_files,
    is_image,
    match_files,
    read_image,
    read_lines,
    read_rows,
    read_table,
    shown,
    writing,
)
from synctva_ros.sources.media import MediaFile
from synctva_ros.sources.microphone import SourceError

cv2 = pytest.importorskip("cv2")


def test_folders_are_searched_in_order_and_each_file_is_taken_once(tmp_path: Path) -> None:
    for name in ("b.WAV", "a/z.jpg", "a/c.mp4", "labels.csv", ".hidden.wav", ".git/x.png", "a/.b/y.png", "a/notes"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_files([tmp_path / "labels.csv", tmp_path, tmp_path / "a", tmp_path / "a/z.jpg", tmp_path / "no.wav"])
    names = [str(file.relative_to(tmp_path)) for file in found.files]
    assert names == ["labels.csv", "b.WAV", "a/c.mp4", "a/z.jpg", "no.wav"], "what is named is taken as it is"
    assert found.skipped == 3, "labels.csv, and a/notes twice"
    assert is_image(Path("x.JPEG"))
    assert not is_image(Path("x.mp4"))


def test_an_image_is_bgr_whatever_it_was(tmp_path: Path) -> None:
    grey = np.arange(48 * 40, dtype=np.uint8).reshape(48, 40)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    image = read_image(tmp_path / "grey.png")
    assert image.shape == (48, 40, 3)
    assert (image == grey[:, :, None]).all()
    cv2.imwrite(str(tmp_path / "deep.png"), grey.astype(np.uint16) * 256)
    assert (read_image(tmp_path / "deep.png")[:, :, 0] == grey).all()


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    for name in ("set/b/2.wav", "set/z/1.wav", "elsewhere/3.wav", "elsewhere/notes.txt", "far/4.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    for link, target in (("a", "z"), ("b/up", ".."), ("b/out", "../../elsewhere"), ("self", "."), ("gone", "nowhere")):
        (tmp_path / "set" / link).symlink_to(target)
    (tmp_path / "elsewhere/back").symlink_to("../set")
    (tmp_path / "elsewhere/further").symlink_to("../far")
    (tmp_path / "set/gone.wav").symlink_to("nowhere.wav")
    found = find_files([tmp_path / "set"])
    names = [str(file.relative_to(tmp_path / "set")) for file in found.files]
    assert names == ["gone.wav", "b/2.wav", "z/1.wav", "b/out/3.wav", "b/out/further/4.wav"]
    assert found.skipped == 2, "notes.txt, and the link gone"
    (tmp_path / "entry").symlink_to("set")
    assert len(find_files([tmp_path / "entry"]).files) == 5


def test_a_folder_may_be_called_like_a_file_and_one_that_cannot_be_read_is_among_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.wav/b.wav", "closed/c.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # for root no folder is closed
    assert find_files([tmp_path]).files == (tmp_path / "a.wav/b.wav", tmp_path / "closed")
    with pytest.raises(SourceError, match="closed: is a folder that cannot be read"):
        MediaFile(tmp_path / "closed")


def test_a_name_that_is_not_utf_8_is_shown_with_its_bytes(tmp_path: Path) -> None:
    path = Path(os.fsdecode(b"/a/Stra\xdfe \xc3\xa4.wav"))
    assert shown(path) == "/a/Stra\\xdfe \u00e4.wav"
    assert shown("plain.wav") == "plain.wav"
    with pytest.raises(SourceError, match=r"/a/Stra\\xdfe \u00e4\.wav: there is no such file"):
        read_image(path)


def test_a_backslash_may_be_part_of_a_name_or_stand_between_folders() -> None:
    assert match_files(["a\\b.wav"], ["x/a\\b.wav"]) == {"a\\b.wav": "x/a\\b.wav"}
    assert match_files(["a\\b.wav"], ["x/a/b.wav"]) == {"a\\b.wav": "x/a/b.wav"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_errors_of_writing_name_the_file(tmp_path: Path) -> None:
    def write() -> None:
        with LineWriter(Path("/dev/full")) as file:
            file.write({"a": 1})

    with pytest.raises(OSError, match=r"/dev/full: it cannot be written \(No space left on device\); make room"):
        write()
    with pytest.raises(OSError, match=r"no/a\.jsonl: it cannot be written \(No such file or directory\); make its"):
        LineWriter(tmp_path / "no/a.jsonl")
    with pytest.raises(BrokenPipeError), writing(tmp_path):
        raise BrokenPipeError


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no such file"), (b"", "cannot be read"), (b"x" * 99, "cannot")]
)
def test_a_broken_image_is_named(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=rf"broken\.jpg: .*{reason}"):
        read_image(path)


def test_a_table_may_have_more_columns_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffid,file,text\r\n1,a.wav,"Well, ""no""\nnever"\r\n\r\n2,b.wav,\r\n'.encode())
    assert read_table(path, "text") == {"a.wav": (2, 'Well, "no"\nnever'), "b.wav": (5, "")}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "line 1: column file and text is missing"),
        (b"file,words\na,b\n", "line 1: column text is missing"),
        (b"file,text\na.wav,well, no\n", "line 2: the row has 3 cells, the first line 2"),
        (b'file,text\na,"x\ny"\na,z\n', "line 4: a is also in line 2"),
        (b'file,text\na,"x"y\n', "line 2: "),
        (b"file,text\na,\xff\n", "line 2: it is not UTF-8"),
    ],
)
def test_a_malformed_table_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "t.csv"
    with pytest.raises(ValueError, match="no such file; give a CSV"):
        read_table(path, "text")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"t.csv, {reason}"):
        read_table(path, "text")


def test_bytes_of_windows_are_read_where_they_are_known_to_be_such(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("\ufefffile,text\na,it\u2019s".encode() + b"\nb,it\x92s\xe2\nc,\x93\x94")
    rows = list(read_rows(path, ("text",), windows=True))
    assert [line for line, _ in rows] == [2, 3, 4]
    assert [row["text"] for _, row in rows] == ["it\u2019s", "it\u2019s\xe2", "\u201c\u201d"]
    with pytest.raises(FileError, match="line 3: it is not UTF-8") as caught:
        list(read_rows(path, ("text",)))
    assert (caught.value.file, caught.value.line, caught.value.remedy) == (path, 3, "save the table as UTF-8")
    path.write_bytes(b"file,text\na,\x9d")
    with pytest.raises(FileError, match="line 2: it is neither UTF-8 nor Windows-1252"):
        list(read_rows(path, ("text",), windows=True))


def test_only_a_line_feed_ends_a_line_of_json(tmp_path: Path) -> None:
    words = "Wait\x85\u2028\u2029\x0b\x0c\x1c what?\r\n"
    with LineWriter(tmp_path / "o.jsonl") as file:
        file.write({"text": words})
        file.write({"text": ""})
    assert list(read_lines(tmp_path / "o.jsonl")) == [(1, {"text": words}), (2, {"text": ""})]


def test_a_name_means_the_file_whose_path_ends_with_it() -> None:
    files = ["in/a.wav", "in/x/a.wav", "in/x/b.wav", "in/y/c.wav", "in/y/x/b.wav"]
    assert match_files(["in/x/a.wav", "./a.wav", "b.wav", "y/c.wav", "d.wav", "wav", ""], files) == {
        "in/x/a.wav": "in/x/a.wav",
        "./a.wav": "in/a.wav",
        "b.wav": "in/x/b.wav",  # the uppermost
        "y/c.wav": "in/y/c.wav",
    }
    assert match_files(["x\\a.wav", "a.wav"], ["in/x/a.wav"]) == {"x\\a.wav": "in/x/a.wav"}, "it belongs to one name"
    with pytest.raises(ValueError, match=r"a\.wav may be x/a\.wav or y/a\.wav"):
        match_files(["a.wav"], ["x/a.wav", "y/a.wav"])
