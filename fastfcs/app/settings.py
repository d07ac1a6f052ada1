"""The controls of the page, and what they are for a stylizer and on the command line."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..constraints.photoreal import CUTOFF
from ..stylizer import STRUCTURE

KEPT = {"Nothing": None, "Colours": "colour", "Luminance": "luminance"}
"""What may be kept of the photo, as the page names it, and as constraints do."""

_DECADES = 2.0  # of cutoffs between the ends of the control
_EVEN = 0.5  # where the defaults are


@dataclass(frozen=True)
class Settings:
    """The controls of the page.

    Attributes:
        photograph: whether the result stays a photograph; else it is a painting.
        strength: in [0, 1].
        balance: in [0, 1], between the structure of the photo, 0, and the style, 1.
        brush: size of a painting's strokes.
        keep: None, "colour" or "luminance".
        finer: whether the result is refined.

    Examples:
        >>> from fastfcs.app.settings import Settings
        >>> Settings(photograph=True).cutoff, Settings(photograph=False).structure
        (0.02, 0.25)
        >>> bold = Settings(balance=1), Settings(photograph=False, balance=1)
        >>> bold[0].cutoff, bold[1].structure
        (0.2, 0.0)
    """

    photograph: bool = True
    strength: float = 1.0
    balance: float = _EVEN
    brush: float = 1.0
    keep: str | None = None
    finer: bool = True

    @property
    def cutoff(self) -> float:
        """The cutoff of a photograph."""
        return float(f"{CUTOFF * 10 ** (_DECADES * (self.balance - _EVEN)):.3g}")

    @property
    def structure(self) -> float:
        """How much of the photo's structure a painting keeps."""
        return round((1 - self.balance) ** 2 * STRUCTURE / _EVEN**2, 3)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `fastfcs.Stylizer.sibling`."""
        kept = [f"keep-{self.keep}"] if self.keep else []
        shared = {"refine": self.finer, "strength": self.strength}
        if self.photograph:
            return {**shared, "constraint": ["photoreal", *kept], "cutoff": self.cutoff}
        return {**shared, "constraint": kept, "structure": self.structure, "brush": self.brush}

    def options(self) -> list[str]:
        """Return the options of ``fastfcs stylize``, without those that are its defaults."""
        default = Settings(self.photograph)
        options = ["--photoreal"] if self.photograph else []
        if self.photograph and self.balance != default.balance:
            options += ["--cutoff", f"{self.cutoff:g}"]
        if not self.photograph and self.balance != default.balance:
            options += ["--structure", f"{self.structure:g}"]
        if not self.photograph and self.brush != default.brush:
            options += ["--brush", f"{self.brush:g}"]
        if self.keep:
            options += ["--keep", self.keep]
        if self.finer != self.photograph:
            options += ["--refine" if self.finer else "--no-refine"]
        if self.strength != default.strength:
            options += ["--strength", f"{self.strength:g}"]
        return options

    def command(
        self,
        photo: str,
        styles: Sequence[tuple[str, float]],
        output: str,
        masks: tuple[str, str] | None = None,
    ) -> str:
        """Write the command that makes the same picture.

        Args:
            photo: a file.
            styles: files or presets, and their weights.
            output: a file.
            masks: files, of the photo and the style.

        Returns:
            A line for a shell.
        """
        words = ["fastfcs", "stylize", _file(photo)]
        for name, _ in styles:
            words += ["--style", _file(name)]
        if len({weight for _, weight in styles}) > 1:
            words += ["--blend", ",".join(f"{weight:g}" for _, weight in styles)]
        if masks:
            words += ["--mask", *map(_file, masks)]
        return shlex.join([*words, *self.options(), "-o", _file(output)])

    def summary(self) -> str:
        """Describe the controls that were moved, in a few words."""
        default = Settings(self.photograph, finer=self.photograph)
        words = []
        if self.strength != default.strength:
            words.append(f"strength {self.strength:.0%}")
        if self.balance != default.balance:
            words.append("more style" if self.balance > default.balance else "more structure")
        if not self.photograph and self.brush != default.brush:
            words.append(f"brush {self.brush:g}")
        if self.keep:
            words.append(f"the photo's {'colours' if self.keep == 'colour' else 'luminance'}")
        if self.finer != default.finer:
            words.append("finer" if self.finer else "not finer")
        return ", ".join(words) or "default settings"


def _file(name: str) -> str:
    return f"./{name}" if name.startswith("-") else name
