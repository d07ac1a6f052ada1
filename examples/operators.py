"""The operators alone: closed-form matting (Levin et al. 2008) cuts an object out of a photo.

python examples/operators.py PHOTO TRIMAP OUT         OUT is a PNG with transparency

The trimap is white on the object, black on the background and grey where it is unknown. The matte
minimises a^T L a + 100 sum (a_i - trimap_i)^2 over the known pixels i. L is never assembled.
It needs scipy (pip install scipy).
"""

import sys

import numpy as np
import torch
from PIL import Image
from scipy.sparse.linalg import LinearOperator, cg

from fastfcs import MattingLaplacian


def main(photo: str, trimap: str, out: str, weight: float = 100.0) -> None:
    pixels = np.array(Image.open(photo).convert("RGB"))
    values = np.array(Image.open(trimap).convert("L")).ravel() / 255
    known = weight * ((values < 0.1) | (values > 0.9))

    laplacian = MattingLaplacian(torch.from_numpy(pixels).permute(2, 0, 1).double() / 255, eps=1e-5)
    matrix = laplacian.to_linear_operator()
    system = LinearOperator(matrix.shape, lambda a: matrix @ a + known * a, dtype=float)
    diagonal = laplacian.diagonal().numpy().ravel() + known
    jacobi = LinearOperator(matrix.shape, lambda r: r / diagonal, dtype=float)
    matte, failed = cg(system, known * values, rtol=1e-5, maxiter=2000, M=jacobi)
    print("not converged" if failed else "converged")

    alpha = (255 * matte.clip(0, 1)).round().astype(np.uint8).reshape(pixels.shape[:2])
    Image.fromarray(np.dstack([pixels, alpha])).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) >= 4 else sys.exit(__doc__)
