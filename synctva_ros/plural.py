"""Numbers of things, as people write them."""


def counted(number: int, what: str) -> str:
    """How many of something: ``1 file``, ``2 files``."""
    return f"{number} {what}" + "s" * (number != 1)
