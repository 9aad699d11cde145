"""The commands that train and measure. Nothing heavy is imported before one of them is called."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synctva_ros.evaluation.command import look_for, look_for_matplotlib
from synctva_ros.plural import counted
from synctva_ros.training.data.command import add_data_commands

if TYPE_CHECKING:
    from synctva_ros.training.recipe import Recipe, RobotRecipe, Schedule

_CORPORA = "meld, iemocap, emorynlp or dailydialog"
_ENCODERS = ("voice", "voice-states", "face", "text", "segmentation", "voiceprint")


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
    evaluate.add_argument(
        "--speakers",
        type=_speakers,
        default=1.0,
        metavar="SHARE",
        help="share of the utterances whose speaker is known, others are mistaken; none: nobody is known (default: 1)",
    )
    evaluate.add_argument("--split", required=True, metavar="NAME", help="reads CORPUS_NAME.jsonl and its vectors")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write figures and predictions here, for compare")
    evaluate.add_argument("--report", type=Path, metavar="FILE", help="write a page with plots here (HTML)")
    evaluate.add_argument("--modalities", metavar="LETTERS", help="only these of those trained on: t, a, v")
    evaluate.set_defaults(handler=partial(_run, _evaluate))

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
        description="voice: our voice network on RAVDESS, judged by speakers that it did not hear. voice-states: heads "
        "on the first layers of a recogniser, judged without each corpus and without people of all. face: our face "
        "network on FER2013. text: MiniLM fine-tuned on DailyDialog and MELD, as a low-rank difference. segmentation: "
        "the network that finds turns, on rooms made of single voices. voiceprint: the network that tells voices "
        "apart, taught by CAM++. Given again after an interruption, the same command goes on.",
        epilog="Example: synctva train-encoder voice --data DIR --out VOICE --report voice.html",
    )
    encoder.add_argument("encoder", choices=_ENCODERS, help="which one")
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
    _add_settings(encoder, *_ENCODERS)
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
    from synctva_ros.evaluation.predictions import VALIDATION, write_figures
    from synctva_ros.training.evaluate import evaluate
    from synctva_ros.training.tasks.dialogue import train

    where: dict[str, Any] = {"cache": arguments.cache, "device": arguments.device}
    train(
        arguments.data,
        arguments.corpus,
        arguments.out,
        recipe,
        context=arguments.context,
        modalities=arguments.modalities,
        seeds=arguments.seeds,
        workers=arguments.workers or os.cpu_count() or 1,
        **where,
    )
    found = evaluate(arguments.out, arguments.data, arguments.corpus, "valid", progress=False, **where)
    write_figures(found.summary, found.predictions, arguments.out / VALIDATION)  # for compare


def _train_robot(arguments: argparse.Namespace, recipe: RobotRecipe) -> None:
    if arguments.corpus or arguments.context != "causal" or arguments.modalities != "tav":
        raise ValueError("a recipe for a robot has its own corpora, context and modalities: leave these options out")
    look_for(arguments.data)
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


def _speakers(text: str) -> float | None:
    if text == "none":
        return None
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r}: give a share from 0 to 1, or none")
    return share


def _evaluate(arguments: argparse.Namespace) -> None:
    if not arguments.run.is_dir():
        raise ValueError(f"{arguments.run / 'run.json'} is missing: give a folder that synctva train wrote")
    _look_for_split(arguments, arguments.split)
    look_for_matplotlib(arguments)
    from synctva_ros.evaluation.predictions import write_figures
    from synctva_ros.training.evaluate import evaluate, print_scores, write_page

    found = evaluate(
        arguments.run,
        arguments.data,
        arguments.corpus,
        arguments.split,
        modalities=arguments.modalities,
        recognised=arguments.recognised,
        speakers=arguments.speakers,
        cache=arguments.cache,
        device=arguments.device,
    )
    print_scores(found)
    if arguments.json is not None:
        write_figures(found.summary, found.predictions, arguments.json)
    if arguments.report is not None:
        write_page(found, arguments.run, arguments.corpus, arguments.split, arguments.report)
        print(f"plots: {arguments.report}")


def _ablate(arguments: argparse.Namespace) -> None:
    recipe = _dialogue_recipe(arguments)
    from synctva_ros.training.ablate import ablate, write_table

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
    look_for(arguments.csv, arguments.clips)
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
    look_for(arguments.data)
    from synctva_ros.training.recipe import (
        KINDS,
        FaceRecipe,
        SegmentationRecipe,
        TextRecipe,
        VoiceprintRecipe,
        VoiceRecipe,
        VoiceStatesRecipe,
        read_recipe,
    )

    recipe = read_recipe(arguments.config or arguments.encoder, _settings(arguments))
    if type(recipe) is not KINDS[arguments.encoder]:
        raise ValueError(f"the recipe {arguments.config} is not for the {arguments.encoder} encoder")
    if arguments.leave_out and not isinstance(recipe, VoiceRecipe):
        raise ValueError("--leave-out is of voice: leave it out")
    if arguments.report is not None and not isinstance(recipe, VoiceRecipe | FaceRecipe):
        raise ValueError("--report is of voice and face: leave it out")
    if isinstance(recipe, SegmentationRecipe):
        from synctva_ros.training.tasks.segmentation import train_segmentation

        figures = train_segmentation(arguments.data, arguments.out, recipe, seed=arguments.seed)
        said = ", ".join(f"{name.removeprefix('valid_')} {value:.3f}" for name, value in figures.items())
        print(f"average precision in rooms of people who were held out: {said}\nwritten: {arguments.out}")
        return
    if isinstance(recipe, VoiceprintRecipe):
        from synctva_ros.training.tasks.voiceprint import train_voiceprint

        error = train_voiceprint(arguments.data, arguments.out, recipe, seed=arguments.seed)
        print(f"equal error rate on people who were held out: {error:.3f}\nwritten: {arguments.out}")
        return
    if isinstance(recipe, VoiceStatesRecipe):
        from synctva_ros.training.tasks.voice_states import train_voice_states

        figures = train_voice_states(arguments.data, arguments.out, recipe, seed=arguments.seed)
        print("unweighted recall of people who were not heard:")
        print("\n".join(f"  {name}: {value:.3f}" for name, value in figures.items()))
        print(f"written: {arguments.out}")
        return
    if isinstance(recipe, TextRecipe):
        from synctva_ros.training.tasks.text import train_text_adapter

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
    if sys.stderr.isatty():
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
