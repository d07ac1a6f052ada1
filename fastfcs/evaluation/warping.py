"""How steady a video is along its motion."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from ..video.flow import Motion


def warping_error(frames: Sequence[NDArray[np.uint8]], motions: Sequence[Motion | None]) -> float:
    """Compute the warping error of a video (Lai et al., ECCV 2018, equation 8).

    Args:
        frames: (H, W, 3), in order.
        motions: from every frame to the one before it; None where there is none.

    Returns:
        The root of the mean of |X_t - W(X_{t-1})|^2, in [0, 1], over all pixels that are trusted.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from fastfcs.evaluation.warping import warping_error
        >>> from fastfcs.video import Motion
        >>> still = Motion(torch.zeros(1, 2, 16, 24), torch.ones(1, 1, 16, 24))
        >>> dark, light = (np.full((16, 24, 3), grey, np.uint8) for grey in (0, 51))
        >>> round(warping_error([dark, light], [None, still]), 3)
        0.2
    """
    squares = weights = 0.0
    planes = [torch.from_numpy(frame).movedim(-1, 0)[None] / 255 for frame in frames]
    for (before, now), motion in zip(pairwise(planes), motions[1:], strict=True):
        if motion is not None:
            error = (now - motion.moved(before)).square().mean(1, keepdim=True)
            squares += (motion.trust * error).sum().item()
            weights += motion.trust.sum().item()
    return float(np.sqrt(squares / weights)) if weights else 0.0
