"""The commands that train and measure. Nothing heavy is imported before one of them is called."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synctva_ros.plural import counted
from synctva_ros.training.data.command import add_data_commands

if TYPE_CHECKING:
    from synctva_ros.training.recipe import Recipe, RobotRecipe, Schedule

_CORPORA = "meld, iemocap, emorynlp or dailydialog"


def add_commands(commands: Any) -> None:
    """Add the commands to what ``ArgumentParser.add_subparsers`` returned.

    Each sets ``handler``, which returns the exit status and raises what there is to be said.
    """
    train = commands.add_parser(
        "train",
        help="train a network on a corpus of dialogues",
        description="Train one network for each seed. Finished seeds are kept, an unfinished one goes on where it was "
        "interrupted. The epoch is chosen on the validation split. With --config shipped and without --corpus: weights "
        "for a robot, on all that the shipped encoders know.",
        epilog="Example: synctva train --data DIR --corpus meld --out RUN --seeds 1,2,3",
    )
    _add_training(train)
    train.add_argument("--workers", type=int, metavar="N", help="seeds trained side by side (default: one a core)")
    _add_settings(train, "dialogue", "robot")
    train.set_defaults(handler=partial(_run, _train))

    evaluate = commands.add_parser(
        "evaluate",
        help="score a trained network",
        description="Score all seeds of a run folder on a split.",
        epilog="Example: synctva evaluate --run RUN --data DIR --corpus meld --split valid --report scores.html",
    )
    evaluate.add_argument(
        "--run", type=Path, required=True, metavar="DIR", help="folder that synctva train wrote, or one with weights"
    )
    _add_data(evaluate)
    evaluate.add_argument(
        "--recognised", action="store_true", help="words as a speech recogniser writes them: lower case, no punctuation"
    )
    evaluate.add_argument("--split", required=True, metavar="NAME", help="reads CORPUS_NAME.jsonl and its vectors")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write figures and predictions here, for compare")
    evaluate.add_argument("--report", type=Path, metavar="FILE", help="write a page with plots here (HTML)")
    evaluate.add_argument("--modalities", metavar="LETTERS", help="only these of those trained on: t, a, v")
    evaluate.set_defaults(handler=partial(_run, _evaluate))

    score = commands.add_parser(
        "score",
        help="compare what synctva recognize wrote with the truth",
        description="How often the estimates are right, file by file. Of several utterances of a file the "
        "probabilities are averaged by duration; a file with a label but no utterance counts as wrong.",
        epilog="Example: synctva score emotions.jsonl --labels labels.csv --report scores.html",
    )
    score.add_argument("recognised", type=Path, metavar="RECOGNISED.jsonl", help="what recognize --json wrote")
    score.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="CSV with the columns file and emotion, also actor if you know it, or a folder with one folder per class "
        "(default: the class is the name of the folder that a file is in)",
    )
    score.add_argument("--json", type=Path, metavar="FILE", help="write figures and predictions here, for compare")
    score.add_argument("--report", type=Path, metavar="FILE", help="write a page with plots here (HTML)")
    score.set_defaults(handler=partial(_run, _score))

    compare = commands.add_parser(
        "compare",
        help="whether two runs differ",
        description="Compare what two networks say of the same utterances, or two recognitions of the same files: "
        "the difference of each figure, its interval and p value, and whether one is better. Dialogues (persons, "
        "files) are drawn anew, the same for both, and so are the seeds.",
        epilog="Example: synctva compare RUN/valid.json OTHER/valid.json",
    )
    for letter in "ab":
        name = f"{letter.upper()}.json"
        compare.add_argument(letter, type=Path, metavar=name, help="what evaluate or score wrote with --json")
    compare.add_argument("--json", type=Path, metavar="FILE", help="write the comparison here")
    compare.set_defaults(handler=partial(_run, _compare))

    ablate = commands.add_parser(
        "ablate",
        help="what each part of the network is worth",
        description="Train the network without each of its parts and on each modality alone, and the references, and "
        "print one table of their scores on the validation split.",
        epilog="Example: synctva ablate --data DIR --corpus meld --out ABLATION",
    )
    _add_training(ablate)
    ablate.set_defaults(handler=partial(_run, _ablate))

    extract = commands.add_parser(
        "extract",
        help="make a corpus of MELD's table and clips",
        description="Run the encoders of the live graph over MELD as its authors distribute it.",
        epilog="Example: synctva extract --csv train_sent_emo.csv --clips train_splits --out DIR --split train",
    )
    extract.add_argument("--csv", metavar="FILE", type=Path, required=True, help="a table, as train_sent_emo.csv")
    extract.add_argument("--clips", metavar="DIR", type=Path, required=True, help="folder with dia0_utt0.mp4 and so on")
    extract.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder that the corpus is written to")
    extract.add_argument("--split", metavar="NAME", required=True, help="name of this part, such as train or valid")
    extract.add_argument("--modalities", choices=("a", "v", "av"), default="av", help="voice, face or both (default)")
    extract.add_argument(
        "--face-detector", metavar="FILE", default="", help="a YuNet ONNX file instead of the usual detector"
    )
    extract.set_defaults(handler=partial(_run, _extract))

    add_data_commands(commands)

    encoder = commands.add_parser(
        "train-encoder",
        help="train an encoder",
        description="voice: our voice network on RAVDESS, judged by speakers that it did not hear. face: our face "
        "network on FER2013. text: MiniLM fine-tuned on DailyDialog and MELD, as a low-rank difference. Given again "
        "after an interruption, the same command goes on.",
        epilog="Example: synctva train-encoder voice --data DIR --out VOICE --report voice.html",
    )
    encoder.add_argument("encoder", choices=("voice", "face", "text"), help="which one")
    encoder.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with the data")
    encoder.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets the weights and the logs")
    encoder.add_argument("--config", metavar="FILE", help="recipe: a YAML file or a name (default: the encoder's)")
    encoder.add_argument("--seed", type=int, default=0)
    encoder.add_argument("--report", type=Path, metavar="FILE", help="of voice and face: a page with plots (HTML)")
    encoder.add_argument(
        "--leave-out",
        metavar="NAME",
        help="of voice: train without a corpus (emovo) or a person (ravdess/2), and say how well it is recognised",
    )
    _add_settings(encoder, "voice", "face", "text")
    encoder.set_defaults(handler=partial(_run, _train_encoder))


def _add_settings(parser: argparse.ArgumentParser, *kinds: str) -> None:
    """An option for each setting of the recipes of these kinds."""
    from synctva_ros.training.recipe import KINDS

    group = parser.add_argument_group("settings that win over the recipe's")
    known: dict[str, list[str]] = {}
    meanings: dict[str, str] = {}
    for kind in kinds:
        for each in KINDS[kind].params():
            known.setdefault(each.name, []).append(kind)
            meanings.setdefault(each.name, each.meaning.replace("%", "%%"))
    for name, of in known.items():
        only = "" if len(of) == len(kinds) else f" ({', '.join(of)})"
        group.add_argument(f"--{name.replace('_', '-')}", dest=f"set_{name}", metavar="X", help=meanings[name] + only)


def _settings(arguments: argparse.Namespace) -> dict[str, str]:
    given = vars(arguments).items()
    return {name.removeprefix("set_"): text for name, text in given if name.startswith("set_") and text is not None}


def _add_data(parser: argparse.ArgumentParser, corpus_needed: bool = True) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with the corpus")
    parser.add_argument("--corpus", required=corpus_needed, metavar="NAME", help=_CORPORA)
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where text vectors are kept (user's cache folder)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the network runs")


def _add_training(parser: argparse.ArgumentParser) -> None:
    _add_data(parser, corpus_needed=False)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run folder")
    parser.add_argument(
        "--context", choices=("causal", "full"), default="causal", help="full: see later turns too (default: causal)"
    )
    parser.add_argument(
        "--modalities", default="tav", metavar="LETTERS", help="t (text), a (audio), v (vision); default all there are"
    )
    parser.add_argument("--seeds", type=_seeds, default=(1,), metavar="1,2,3", help="one network each (default 1)")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="recipe: a YAML file or the name of a shipped one (default: that of the corpus, else all defaults)",
    )


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 1,2,3") from None
    if len(set(seeds)) != len(seeds) or min(seeds) < 0 or max(seeds) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r}: give different numbers from 0 to below 2**32")
    return seeds


def _recipe(arguments: argparse.Namespace) -> Schedule:
    from synctva_ros.training.recipe import RECIPES, make_recipe, read_recipe

    changes = _settings(arguments)
    if arguments.config:
        return read_recipe(arguments.config, changes)
    if (RECIPES / f"{arguments.corpus}.yaml").is_file():
        return read_recipe(arguments.corpus, changes)
    return make_recipe("dialogue", {}, changes)


def _dialogue_recipe(arguments: argparse.Namespace) -> Recipe:
    """The recipe, and a corpus to train it on.

    Raises:
        ValueError: the recipe is for something else, or there is no corpus.
    """
    from synctva_ros.training.recipe import Recipe

    recipe = _recipe(arguments)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"the recipe {arguments.config} is not for a network on a corpus of dialogues")
    if not arguments.corpus:
        raise ValueError(f"--corpus is missing: give one of {_CORPORA}")
    _look_for_split(arguments, "train")
    return recipe


def _look_for(*paths: Path) -> None:
    """Say that something is not there before PyTorch is loaded, which takes seconds; the rest is judged later.

    Raises:
        ValueError: the sentence says which.
    """
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path}: there is no such file or folder")


def _look_for_split(arguments: argparse.Namespace, split: str) -> None:
    folder = arguments.data / "erc" if (arguments.data / "erc").is_dir() else arguments.data
    path = folder / f"{arguments.corpus}_{split}.jsonl"
    if arguments.corpus in _CORPORA.replace(" or", ",").split(", ") and not path.is_file():
        raise ValueError(f"{path}: there is no such file; check the folder, the corpus and the split")


def _train(arguments: argparse.Namespace) -> None:
    from synctva_ros.training.recipe import RobotRecipe

    if isinstance(recipe := _recipe(arguments), RobotRecipe):
        _train_robot(arguments, recipe)
        return
    recipe = _dialogue_recipe(arguments)
    from synctva_ros.training.tasks.dialogue import train

    train(
        arguments.data,
        arguments.corpus,
        arguments.out,
        recipe,
        context=arguments.context,
        modalities=arguments.modalities,
        seeds=arguments.seeds,
        cache=arguments.cache,
        device=arguments.device,
        workers=arguments.workers or os.cpu_count() or 1,
    )


def _train_robot(arguments: argparse.Namespace, recipe: RobotRecipe) -> None:
    if arguments.corpus or arguments.context != "causal" or arguments.modalities != "tav":
        raise ValueError("a recipe for a robot has its own corpora, context and modalities: leave these options out")
    _look_for(arguments.data)
    from synctva_ros.training.tasks.robot import train

    for seed in arguments.seeds:
        folder = arguments.out if len(arguments.seeds) == 1 else arguments.out / f"seed-{seed}"
        about = train(arguments.data, folder, recipe, cache=arguments.cache, seed=seed)
        for name, figures in about["validation"].items():
            print(
                f"{name:40} weighted F1 {100 * figures['weighted_f1']:.1f} %, "
                f"calibration error {100 * figures['calibration_error']:.1f} %"
            )
        print(f"written: {folder}; a robot can use these weights: emotion.weights={folder}")


def _evaluate(arguments: argparse.Namespace) -> None:
    if not arguments.run.is_dir():
        raise ValueError(f"{arguments.run / 'run.json'} is missing: give a folder that synctva train wrote")
    _look_for_split(arguments, arguments.split)
    _look_for_matplotlib(arguments)
    from synctva_ros.training.evaluation.evaluate import evaluate, print_scores, write_page
    from synctva_ros.training.evaluation.predictions import write_figures

    found = evaluate(
        arguments.run,
        arguments.data,
        arguments.corpus,
        arguments.split,
        modalities=arguments.modalities,
        recognised=arguments.recognised,
        cache=arguments.cache,
        device=arguments.device,
    )
    print_scores(found)
    if arguments.json is not None:
        write_figures(found.summary, found.predictions, arguments.json)
    if arguments.report is not None:
        write_page(found, arguments.run, arguments.corpus, arguments.split, arguments.report)
        print(f"plots: {arguments.report}")


def _score(arguments: argparse.Namespace) -> None:
    _look_for_matplotlib(arguments)
    from synctva_ros.training.evaluation.predictions import write_figures
    from synctva_ros.training.evaluation.score import figures, judge, print_figures, write_page

    found = judge(arguments.recognised, arguments.labels, lambda sentence: print(sentence, file=sys.stderr))
    reached = figures(found)
    print_figures(reached)
    if arguments.json is not None:
        write_figures(reached, found.predictions, arguments.json)
    if arguments.report is not None:
        write_page(found, arguments.recognised, arguments.report)
        print(f"plots: {arguments.report}")


def _look_for_matplotlib(arguments: argparse.Namespace) -> None:
    """Say that it is missing before the figures are reckoned, which may take minutes.

    Raises:
        ValueError: a page is asked for, and there is nothing to draw it with.
    """
    if arguments.report is None:
        return
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"--report draws with matplotlib, which is not here ({error}): pip install 'synctva-ros[train]', or leave "
            "it out; all figures are printed, and --json writes them"
        ) from error


def _compare(arguments: argparse.Namespace) -> None:
    _look_for(arguments.a, arguments.b)
    from synctva_ros.sources.files import writing
    from synctva_ros.training.evaluation.compare import compare, print_comparison

    found = compare(arguments.a, arguments.b)
    print_comparison(found)
    if arguments.json is not None:
        with writing(arguments.json):
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _ablate(arguments: argparse.Namespace) -> None:
    recipe = _dialogue_recipe(arguments)
    from synctva_ros.training.evaluation.ablate import ablate, write_table

    results = ablate(
        arguments.data,
        arguments.corpus,
        arguments.out,
        recipe,
        context=arguments.context,
        modalities=arguments.modalities,
        seeds=arguments.seeds,
        cache=arguments.cache,
        device=arguments.device,
    )
    seeds = counted(len(arguments.seeds), "seed")
    print(f"\n{arguments.corpus} valid, by which the epochs were chosen; {arguments.context} context, {seeds}\n")
    print(write_table(results, arguments.out))


def _extract(arguments: argparse.Namespace) -> None:
    _look_for(arguments.csv, arguments.clips)
    from synctva_ros.training.data.extract import extract_meld

    extract_meld(
        arguments.csv,
        arguments.clips,
        arguments.out,
        arguments.split,
        modalities=arguments.modalities,
        face_detector=arguments.face_detector,
    )


def _train_encoder(arguments: argparse.Namespace) -> None:
    _look_for(arguments.data)
    from synctva_ros.training.recipe import KINDS, FaceRecipe, TextRecipe, VoiceRecipe, read_recipe

    recipe = read_recipe(arguments.config or arguments.encoder, _settings(arguments))
    if type(recipe) is not KINDS[arguments.encoder]:
        raise ValueError(f"the recipe {arguments.config} is not for the {arguments.encoder} encoder")
    if arguments.leave_out and not isinstance(recipe, VoiceRecipe):
        raise ValueError("--leave-out is of voice: leave it out")
    if isinstance(recipe, TextRecipe):
        from synctva_ros.training.tasks.text import train_text_adapter

        if arguments.report is not None:
            raise ValueError("--report is of voice and face: leave it out")
        train_text_adapter(arguments.data, arguments.out, recipe, seed=arguments.seed)
        print(f"written: {arguments.out}")
        return
    if isinstance(recipe, VoiceRecipe):
        from synctva_ros.training.tasks.voice import leave_out, train_voice_encoder

        if arguments.leave_out:
            scores = leave_out(arguments.data, arguments.out, recipe, arguments.leave_out, seed=arguments.seed)
        else:
            scores = train_voice_encoder(
                arguments.data, arguments.out, recipe, seed=arguments.seed, report=arguments.report
            )
    else:
        assert isinstance(recipe, FaceRecipe)
        from synctva_ros.training.tasks.face import train_face_encoder

        scores = train_face_encoder(arguments.data, arguments.out, recipe, seed=arguments.seed, report=arguments.report)
    print(
        f"{scores.n} unseen: unweighted recall {scores.unweighted_recall:.3f}, accuracy {scores.accuracy:.3f}, "
        f"calibration error {scores.ece:.3f}\nwritten: {arguments.out}"
    )


def _run(handler: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    """Run a command; what it raises says what else there is to know."""
    if sys.stderr.isatty() and handler not in (_score, _compare):
        print("Loading PyTorch, which takes some seconds ...", file=sys.stderr)
    try:
        handler(arguments)
    except ImportError as error:
        raise ImportError(f"{error}; training needs more packages: pip install 'synctva-ros[train]'") from error
    except KeyboardInterrupt as error:
        if handler in (_train, _ablate, _train_encoder):
            error.add_note("the same command goes on from here")
        raise
    return 0
