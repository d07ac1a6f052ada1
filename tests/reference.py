"""Every operator as a plain float64 formula, to test against. Nothing here touches fastfcs or csrc."""

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor


def windows(x: Tensor) -> Tensor:
    """(B,C,H,W) -> (B,H-2,W-2,9,C): the nine values of every 3x3 window wholly inside, row by row."""
    batch, channels, height, width = x.shape
    columns = F.unfold(x.double(), 3).reshape(batch, channels, 9, height - 2, width - 2)
    return columns.permute(0, 3, 4, 2, 1)


def matting_inverse(image: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Window means mu (B,H-2,W-2,3) and (S_w + eps/9 I)^-1 (B,H-2,W-2,3,3), which is K K^T of the factors."""
    colours = windows(image)
    mean = colours.mean(-2)
    centred = colours - mean.unsqueeze(-2)
    covariance = centred.mT @ centred / 9
    return mean, torch.linalg.inv(covariance + eps / 9 * torch.eye(3, dtype=torch.float64))


def matting_blocks(image: Tensor, eps: float) -> Tensor:
    """I - A_w, (B,H-2,W-2,9,9), A_w(i,j) = 1/9 [1 + (I_i - mu)^T (S_w + eps/9 I)^-1 (I_j - mu)] (Levin et al. 2008)."""
    mean, inverse = matting_inverse(image, eps)
    centred = windows(image) - mean.unsqueeze(-2)
    return torch.eye(9, dtype=torch.float64) - (1 + centred @ inverse @ centred.mT) / 9


def matting_matvec(image: Tensor, x: Tensor, eps: float = 1e-7) -> Tensor:
    """L x, (B,C,H,W): every window's block times its nine values, added up where windows overlap."""
    batch, channels, height, width = x.shape
    products = matting_blocks(image, eps) @ windows(x)
    columns = products.permute(0, 4, 3, 1, 2).reshape(batch, channels * 9, -1)
    return F.fold(columns, (height, width), 3)


def matting_laplacian(image: Tensor, eps: float = 1e-7) -> scipy.sparse.csr_matrix:
    """The explicit (HW,HW) matrix of one image (3,H,W) or (1,3,H,W)."""
    image = image.reshape(-1, *image.shape[-2:])[None]
    pixels = torch.arange(image[0, 0].numel()).reshape(1, 1, *image.shape[-2:])
    index = windows(pixels)[..., 0].long()
    row = index.unsqueeze(-1).expand(*index.shape, 9)
    values, rows, columns = (t.reshape(-1).numpy() for t in (matting_blocks(image, eps), row, row.mT))
    return scipy.sparse.csr_matrix((values, (rows, columns)), shape=(pixels.numel(),) * 2)


def chebyshev_filter(matvec, x: Tensor, coefficients) -> Tensor:
    """sum_k c_k T_k(2 L / 9 - I) x by the three-term recurrence; matvec(x) = L x, c_0 not halved."""

    def shifted(y: Tensor) -> Tensor:
        return 2 / 9 * matvec(y) - y

    coefficients = [float(c) for c in coefficients]
    previous, current = x.double(), shifted(x.double())
    result = coefficients[0] * previous
    for c in coefficients[1:]:
        result = result + c * current
        previous, current = current, 2 * shifted(current) - previous
    return result


def matting_filter(image: Tensor, x: Tensor, coefficients, eps: float = 1e-7) -> Tensor:
    """p(L) x, (B,C,H,W), with the explicit matrix of every image."""
    height, width = image.shape[-2:]
    results = []
    for one, signal in zip(image, x, strict=True):
        laplacian = matting_laplacian(one, eps)
        columns = signal.double().reshape(-1, height * width).T
        filtered = chebyshev_filter(
            lambda y, matrix=laplacian: torch.from_numpy(np.asarray(matrix @ y.numpy())), columns, coefficients
        )
        results.append(filtered.T.reshape(signal.shape))
    return torch.stack(results)


def gram(h: Tensor) -> Tensor:
    """h^T h / n, (B,C,C), n = H W."""
    columns = h.double().flatten(2)
    return columns @ columns.mT / columns.shape[-1]


def gram_correction(h: Tensor, target: Tensor) -> Tensor:
    """h (h^T h / n - target), (B,C,H,W), h as an n x C matrix."""
    return ((gram(h) - target.double()).mT @ h.double().flatten(2)).reshape(h.shape)


def gram_correction_backward(h: Tensor, target: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """dh = g (G - H)^T + h (S + S^T) / n and dH = -S, S = h^T g; dH summed over the batch if H has batch 1."""
    columns, outer = h.double().flatten(2), grad.double().flatten(2)
    s = columns @ outer.mT
    dh = (gram(h) - target.double()) @ outer + (s + s.mT) @ columns / columns.shape[-1]
    dtarget = -s if target.shape[0] == h.shape[0] else -s.sum(0, keepdim=True)
    return dh.reshape(h.shape), dtarget
