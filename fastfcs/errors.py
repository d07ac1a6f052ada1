"""What bad input raises, and how users are told."""

from __future__ import annotations

from .memory import is_exhausted

BAD_INPUT = (ValueError, OSError, RuntimeError, MemoryError)
"""The errors that the user's input may cause, or a lack of memory or disk."""


def sentence(error: Exception) -> str:
    """Describe an error in one line.

    Args:
        error: one of `BAD_INPUT`.

    Returns:
        The sentence.

    Examples:
        >>> from fastfcs.errors import sentence
        >>> sentence(ValueError("strength must be in [0, 1], got 2"))
        'strength must be in [0, 1], got 2'
        >>> sentence(RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"))
        'not enough memory; smaller pictures need less'
    """
    text = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if is_exhausted(error):
        return "not enough memory; smaller pictures need less"
    return text


def counted(number: int, noun: str) -> str:
    """Write a number with its noun.

    Args:
        number: how many.
        noun: what, in the singular.

    Returns:
        The words.

    Examples:
        >>> from fastfcs.errors import counted
        >>> counted(1, "picture"), counted(2, "frame")
        ('1 picture', '2 frames')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
