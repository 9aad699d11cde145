"""The commands that train and measure, as someone types them, but in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from synctva_ros.apps import cli
from synctva_ros.evaluation.metrics import MEASURES
from synctva_ros.events import EMOTIONS
from synctva_ros.training import ablate
from synctva_ros.training.data.dialogues import Corpus
from synctva_ros.training.recipe import Recipe, RobotRecipe, TextRecipe, read_recipe
from synctva_ros.training.tasks import dialogue as trainer
from synctva_ros.training.tasks import robot
from synctva_ros.training.tasks import text as text_adapter
from synctva_ros.training.tasks.dialogue import Run

Command = Callable[..., int]
TINY = "hidden: 8\nheads: 2\nwindow: 2\nepochs: 2\nbatch: 2\nlearning_rate: 0.01\n"


@pytest.fixture
def synctva(write_split: Callable[..., Corpus], words: Any, tmp_path: Path) -> Command:
    """Runs ``synctva NAME`` on a small corpus; options as keywords, those of its data are given."""
    for split in ("train", "valid"):
        write_split(tmp_path, split, [4, 3, 2], widths={"audio": 7})
    (tmp_path / "tiny.yaml").write_text(TINY)

    def call(command: str, **options: Any) -> int:
        given = {"data": tmp_path, "corpus": "meld", "cache": tmp_path / "cache", "device": "cpu"} | options
        line = [part for name, value in given.items() for part in (f"--{name}", str(value))]
        return cli.main([command, *line])

    return call


def test_a_training_and_its_scores(synctva: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, scores, page = tmp_path / "run", tmp_path / "new" / "scores.json", tmp_path / "pages" / "run.html"
    config = tmp_path / "tiny.yaml"
    assert synctva("train", out=out, config=config, seeds="3,1", context="full", modalities="t") == 0
    said = capsys.readouterr().out.splitlines()
    # What the robot would refuse is said before hours of work, and after them.
    refused = "not for a robot: it sees later turns; train with --context causal"
    assert (said[0], said[-1]) == (refused, refused)
    assert [line[:14] for line in said[1:-1]] == ["seed 3 (1 of 2", "seed 1 (2 of 2"]
    run = Run.read(out)
    assert (run.context, run.modalities, run.recipe) == ("full", "t", read_recipe(config))
    assert run.seeds(out) == [1, 3]

    assert synctva("evaluate", run=out, split="valid", json=scores, report=page) == 0
    printed = capsys.readouterr().out
    assert "9 utterances in 3 dialogues, 2 seeds" in printed
    assert str(page) in printed.replace("\n", "")
    assert page.read_text().startswith("<!DOCTYPE html>")
    summary = json.loads(scores.read_text())
    more = {"per_class", "confusion", "n", "groups", "chosen_on_this_split", "predictions"}
    assert set(summary) == {*MEASURES, *more}
    assert summary["chosen_on_this_split"] is True
    for name in MEASURES:
        assert set(summary[name]) == {"mean", "std", "interval", "seeds"}
        assert set(summary[name]["seeds"]) == {"1", "3"}
        assert summary[name]["mean"] >= 0.0
    assert set(summary["per_class"]) == set(EMOTIONS)
    for figures in summary["per_class"].values():
        assert set(figures) == {"precision", "recall", "f1", "support"}
    assert summary["confusion"]["labels"] == list(EMOTIONS)
    assert len(summary["confusion"]["sum"]) == len(EMOTIONS)
    assert summary["n"] == 9


def test_two_runs_are_compared(synctva: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "other"):
        (tmp_path / "tiny.yaml").write_text(TINY if name == "one" else TINY.replace("epochs: 2", "epochs: 1"))
        assert synctva("train", out=tmp_path / name, config=tmp_path / "tiny.yaml", seeds="1,2") == 0
    assert synctva("evaluate", run=tmp_path / "one", split="valid", json=tmp_path / "one.json") == 0
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "one" / "valid.json").read_bytes()
    capsys.readouterr()
    assert cli.main(["compare", str(tmp_path / "one"), str(tmp_path / "other")]) == 0
    printed = capsys.readouterr().out
    assert f"A: {tmp_path / 'one'} (2 seeds)" in printed
    assert "9 items in 3 dialogues, which were drawn for the intervals" in printed
    assert "95 % interval" in printed.splitlines()[-1]


def test_a_page_without_matplotlib_is_refused_before_the_work(
    synctva: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (tmp_path / "run").mkdir()  # there is no run in it, which would be said next
    assert synctva("evaluate", run=tmp_path / "run", split="valid", report=tmp_path / "page.html") == 1
    assert "--report draws with matplotlib, which is not here" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["gru", "mlp"])
def test_references_are_trained_by_the_same_commands(synctva: Command, tmp_path: Path, model: str) -> None:
    (tmp_path / "tiny.yaml").write_text(f"model: {model}\nhidden: 8\nepochs: 1\n")
    assert synctva("train", out=tmp_path / "run", config=tmp_path / "tiny.yaml") == 0
    written = json.loads((tmp_path / "run" / "seed-1" / "model.json").read_text())
    assert (written["architecture"], written["name"]) == (model, f"{model}-meld-causal-1")
    assert synctva("evaluate", run=tmp_path / "run", split="train", modalities="a") == 0


def test_one_table_of_all_variants(synctva: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY.replace("epochs: 2", "epochs: 1"))
    assert synctva("ablate", out=tmp_path / "out", config=tmp_path / "tiny.yaml") == 0
    printed = capsys.readouterr().out
    assert "meld valid, by which the epochs were chosen; causal context, 1 seed\n" in printed
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")]
    assert rows == ["variant", *json.loads((tmp_path / "out" / "ablation.json").read_text())]
    assert {"whole", "without memory", "without cross-attention", "audio alone", "reference gru"} <= set(rows)
    assert printed.endswith((tmp_path / "out" / "ablation.md").read_text())


@pytest.mark.parametrize(
    ("corpus", "config", "recipe"),
    [("meld", None, "meld"), ("iemocap", None, "iemocap"), ("emorynlp", None, "meld-frozen"), ("meld", "gru", "gru")],
)
def test_which_recipe_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: str, config: str | None, recipe: str
) -> None:
    taken: list[Recipe] = []
    monkeypatch.setattr(trainer, "train", lambda data, name, out, given, **_: taken.append(given))
    monkeypatch.setattr("synctva_ros.training.evaluate.evaluate", MagicMock())
    monkeypatch.setattr("synctva_ros.evaluation.predictions.write_figures", MagicMock())
    (tmp_path / f"{corpus}_train.jsonl").touch()
    line = ["train", "--data", str(tmp_path), "--corpus", corpus, "--out", str(tmp_path)]
    assert cli.main(line + (["--config", config] if config else [])) == 0
    assert taken == [read_recipe(recipe)]


def test_the_encoder_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(text_adapter, "train_text_adapter", lambda *given, seed: asked.append((*given, seed)))
    line = ["train-encoder", "text", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--seed", "4"]
    assert cli.main([*line, "--encoder-rate", "3e-5"]) == 0
    assert asked == [(tmp_path, tmp_path / "out", TextRecipe(encoder_rate=3e-5), 4)]
    assert capsys.readouterr().out == f"written: {tmp_path / 'out'}\n"


@pytest.mark.parametrize(
    ("command", "options", "sentence"),
    [
        (
            "train",
            {"config": "nothing"},
            "nothing: there is no such recipe file; give one, or the name of a shipped one",
        ),
        ("train", {"corpus": "mine"}, "'mine' is not among the known corpora; give one of meld, dailydialog"),
        ("train", {"modalities": "tx"}, "modalities are 'tx': give some of t (text), a (audio), v (vision)"),
        ("train", {"data": "/no/such"}, "there is no such file; check the folder, the corpus and the split"),
        (
            "evaluate",
            {"run": "/no/such", "split": "valid"},
            "run.json is missing: give a folder that synctva train wrote",
        ),
        ("ablate", {"config": "gru"}, "the recipe is for 'gru', which has no parts to leave out"),
    ],
)
def test_bad_input_is_one_sentence_and_a_failure(
    synctva: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    options: dict[str, Any],
    sentence: str,
) -> None:
    out = {} if command == "evaluate" else {"out": tmp_path / "out"}
    assert synctva(command, **(out | options)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("synctva: ")
    assert sentence in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        ("", "'' is not a list of whole numbers such as 1,2,3"),
        ("1,two", "'1,two' is not a list"),
        ("1,,2", "'1,,2' is not a list"),
        ("1.5", "'1.5' is not a list"),
        ("1,1", "'1,1': give different numbers from 0"),
        ("-1", "'-1': give different numbers from 0"),
        ("99999999999", "'99999999999': give different numbers from 0 to below 2**32"),
    ],
)
def test_wrong_seeds(
    synctva: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], seeds: str, sentence: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        synctva("train", out=tmp_path / "out", seeds=seeds)
    assert caught.value.code == 2
    assert f"argument --seeds: {sentence}" in capsys.readouterr().err


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("command", "module"), [("train", trainer), ("ablate", ablate)])
def test_an_interruption_says_how_to_go_on(
    synctva: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    module: Any,
) -> None:
    monkeypatch.setattr(module, command, interrupted)
    assert synctva(command, out=tmp_path / "out") == 130
    assert capsys.readouterr().err == "\nsynctva: interrupted; the same command goes on from here\n"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("train --config shipped --corpus meld", "a recipe for a robot has its own corpora, context and modalities"),
        ("train --config voice", "the recipe voice is not for a network on a corpus of dialogues"),
        ("train", "--corpus is missing: give one of meld, iemocap, emorynlp or dailydialog"),
        ("train --corpus meld --hidden many", "parameter 'hidden': 'many' is not of type int"),
        ("train --corpus meld --audio-weights x", "unknown setting 'audio_weights'; the settings are averaging"),
        ("train-encoder voice --config face", "the recipe face is not for the voice encoder"),
        ("train-encoder face --leave-out emovo", "--leave-out is of voice: leave it out"),
        ("train-encoder text --report x.html", "--report is of voice and face: leave it out"),
        ("train-encoder face --folds 3", "unknown setting 'folds'"),
    ],
)
def test_what_does_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, sentence: str
) -> None:
    assert cli.main([*line.split(), "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert sentence in said
    assert not (tmp_path / "out").exists()


def test_weights_for_a_robot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def made(data: Path, out: Path, recipe: RobotRecipe, cache: Path | None, seed: int) -> dict[str, Any]:
        asked.append((out.name, recipe, seed))
        return {"validation": {"words": {"weighted_f1": 0.61, "calibration_error": 0.02}}}

    monkeypatch.setattr(robot, "train", made)
    line = ["train", "--config", "shipped", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert cli.main([*line, "--epochs", "2"]) == 0
    assert cli.main([*line, "--seeds", "0,5"]) == 0
    assert asked == [
        ("out", RobotRecipe(epochs=2), 1),
        ("seed-0", RobotRecipe(), 0),
        ("seed-5", RobotRecipe(), 5),
    ]
    said = capsys.readouterr().out
    assert "weighted F1 61.0 %, calibration error 2.0 %" in said
    assert f"a robot can use these weights: emotion.weights={tmp_path / 'out'}\n" in said


def test_an_encoders_training_goes_on_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(text_adapter, "train_text_adapter", interrupted)
    assert cli.main(["train-encoder", "text", "--data", str(tmp_path), "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "\nsynctva: interrupted; the same command goes on from here\n"


def test_a_missing_package_says_what_to_install(
    synctva: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert synctva("train", out=tmp_path / "out", config=tmp_path / "tiny.yaml") == 1
    assert "tqdm" in (message := capsys.readouterr().err)
    assert message.endswith("training needs more packages: pip install 'synctva-ros[train]'\n")


def test_the_parser_loads_nothing_heavy() -> None:
    program = (
        "import sys; from synctva_ros.apps import cli; cli.parser();"
        "print(*{'numpy', 'torch', 'sklearn', 'matplotlib', 'tqdm', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("command", ["train", "evaluate", "score", "compare", "ablate", "extract", "train-encoder"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"usage: synctva {command}" in shown
    example = shown.rpartition("Example: synctva ")[2]
    cli.parser().parse_args(example.split())


@pytest.mark.parametrize(
    "line",
    [
        "train --data no --corpus meld --out out",
        "ablate --data no --corpus meld --out out",
        "evaluate --run no --data no --corpus meld --split valid",
        "compare no no",
        "extract --csv no --clips no --out out --split train",
        "train-encoder voice --data no --out out",
        "train --config shipped --data no --out out",
    ],
)
def test_what_is_missing_is_said_before_pytorch_is_loaded(line: str, tmp_path: Path) -> None:
    program = (
        "import sys; from synctva_ros.apps import cli; status = cli.main(sys.argv[1:]);"
        "print(status, 'torch' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, *line.split()],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.stdout == "1 False\n"
    assert done.stderr.startswith("synctva: no")
