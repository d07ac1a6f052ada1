"""The iterative solvers that the network replaces: Gatys et al., Luan et al., projected gradient.

    min  content_weight L_c + style_weight L_s + matting_weight Tr(X^T L X) / (3n)
         + structure_weight L_e

X has n pixels. L_c and L_s are relative (`fastfcs.losses`), as in training, so that weights do not
depend on VGG's scale and the network and a solver minimise the same loss. L_e = 1 - SSIM of the
gradient magnitudes preserves the position and strength of edges.
"""

from .descent import Callback, Method, solve

__all__ = ["Callback", "Method", "solve"]
