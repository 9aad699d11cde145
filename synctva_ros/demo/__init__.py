"""A dialogue made by speech synthesis, with its ground truth, and the sentences the demo recogniser knows."""

from importlib.resources import files


def sentences() -> tuple[str, ...]:
    """The closed set of sentences of the demo recogniser, as in ``sentences.txt``."""
    return tuple(files(__name__).joinpath("sentences.txt").read_text(encoding="utf-8").splitlines())
