"""Every operator as a plain float64 formula to test against, independent of fastfcs."""

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """||actual - expected|| / ||expected||, in float64 on the CPU."""
    expected = expected.cpu().double()
    return float((actual.cpu().double() - expected).norm() / expected.norm())


def windows(x: Tensor) -> Tensor:
    """(B,C,H,W) -> (B,H-2,W-2,9,C): the nine pixels of every 3x3 window inside."""
    batch, channels, height, width = x.shape
    columns = F.unfold(x.double(), 3).reshape(batch, channels, 9, height - 2, width - 2)
    return columns.permute(0, 3, 4, 2, 1)


def matting_inverse(image: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """mu (B,H-2,W-2,3) and (S_w + eps/9 I)^-1 = K K^T (B,H-2,W-2,3,3) of every window."""
    colours = windows(image)
    mean = colours.mean(-2)
    centred = colours - mean.unsqueeze(-2)
    covariance = centred.mT @ centred / 9
    return mean, torch.linalg.inv(covariance + eps / 9 * torch.eye(3, dtype=torch.float64))


def matting_blocks(image: Tensor, eps: float) -> Tensor:
    """I - A_w, (B,H-2,W-2,9,9), Levin et al. (2008):

    A_w(i,j) = 1/9 [1 + (I_i - mu_w)^T (S_w + eps/9 I)^-1 (I_j - mu_w)].
    """
    mean, inverse = matting_inverse(image, eps)
    centred = windows(image) - mean.unsqueeze(-2)
    return torch.eye(9, dtype=torch.float64) - (1 + centred @ inverse @ centred.mT) / 9


def matting_matvec(image: Tensor, x: Tensor, eps: float = 1e-7) -> Tensor:
    """L x, (B,C,H,W): every window's block times its nine pixels, summed over the windows."""
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
    values, rows, columns = (
        t.reshape(-1).numpy() for t in (matting_blocks(image, eps), row, row.mT)
    )
    return scipy.sparse.csr_matrix((values, (rows, columns)), shape=(pixels.numel(),) * 2)


def chebyshev_filter(matvec, x: Tensor, coefficients) -> Tensor:
    """sum_k c_k T_k(2 L / 9 - I) x by the recurrence; matvec(x) = L x, c_0 not halved."""

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
            lambda y, matrix=laplacian: torch.from_numpy(np.asarray(matrix @ y.numpy())),
            columns,
            coefficients,
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
    """dh = g (G - H)^T + h (S + S^T) / n, dH = -S (summed if H has batch 1), S = h^T g."""
    columns, outer = h.double().flatten(2), grad.double().flatten(2)
    s = columns @ outer.mT
    dh = (gram(h) - target.double()) @ outer + (s + s.mT) @ columns / columns.shape[-1]
    dtarget = -s if target.shape[0] == h.shape[0] else -s.sum(0, keepdim=True)
    return dh.reshape(h.shape), dtarget


def cross_gram(h: Tensor, g: Tensor) -> Tensor:
    """h^T g, (B,C,C)."""
    return h.double().flatten(2) @ g.double().flatten(2).mT


def level_gradient(
    h: Tensor, weights: Tensor, coarse: Tensor | None = None, slope: float = 0.2
) -> Tensor:
    """h W + s(h) * enlarge(coarse), (B,C,H+2,W+2), replicate-padded."""
    h = h.double()
    result = (weights.double().mT @ h.flatten(2)).reshape(h.shape)
    if coarse is not None:
        enlarged = F.interpolate(coarse.double(), h.shape[2:], mode="bilinear")
        result = result + torch.where(h > 0, enlarged, slope * enlarged)
    return F.pad(result, (1, 1, 1, 1), mode="replicate")


def jackson_coefficients(cutoff: float, order: int) -> Tensor:
    """The ideal low-pass at `cutoff` on [0,9], damped by Jackson's window, divided by p(0)."""
    k = np.arange(order + 1)
    edge = np.arccos(2 * cutoff / 9 - 1)
    c = np.r_[1 - edge / np.pi, -2 / np.pi * np.sin(k[1:] * edge) / k[1:]]
    a = np.pi / (order + 2)
    c *= ((order + 2 - k) * np.cos(k * a) + np.sin(k * a) / np.tan(a)) / (order + 2)
    return torch.from_numpy(c / np.sum(c * (-1.0) ** k))


def aggressive_update(image: Tensor) -> Tensor:
    """A bad restyling of a photo, (B,3,H,W): posterised, recoloured, in noisy blocks of 8 px."""
    random = torch.Generator().manual_seed(0)
    colours = torch.tensor(
        [[0.7, 0.5, -0.2], [0.1, 0.8, 0.1], [-0.1, 0.3, 1.0]], dtype=torch.float64
    )
    posterised = torch.einsum("cd,bdhw->bchw", 1.1 * colours, (4 * image.double()).round() / 4)
    batch, _, height, width = image.shape
    blocks = torch.randn(
        batch, 3, -(-height // 8), -(-width // 8), generator=random, dtype=torch.float64
    )
    blocks = blocks.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., :height, :width]
    noise = torch.randn(image.shape, generator=random, dtype=torch.float64)
    return (posterised - 0.05 + 0.08 * blocks + 0.03 * noise).clamp(0, 1)


def box_mean(x: Tensor, radius: int) -> Tensor:
    """The mean over (2 radius + 1)^2 pixels, without those beyond the border."""
    kernel = torch.ones(x.shape[1], 1, 2 * radius + 1, 2 * radius + 1, dtype=torch.float64)
    sums = [
        F.conv2d(each, kernel, padding=radius, groups=x.shape[1])
        for each in (x.double(), torch.ones_like(x, dtype=torch.float64))
    ]
    return sums[0] / sums[1]


def affine_fit(guide: Tensor, signal: Tensor, radius: int, eps: float) -> Tensor:
    """(B,12,H,W), the colour guided filter's coefficients, He et al. (2013), equations 19 to 21."""
    batch, _, height, width = guide.shape
    i, p = guide.double(), signal.double()
    mu, mean = box_mean(i, radius), box_mean(p, radius)
    outer = [(x.unsqueeze(2) * i.unsqueeze(1)).flatten(1, 2) for x in (i, p)]
    s, cov = (
        (box_mean(x, radius).view(batch, 3, 3, height, width) - m.unsqueeze(2) * mu.unsqueeze(1))
        for x, m in zip(outer, (mu, mean), strict=True)
    )
    s = s.permute(0, 3, 4, 1, 2) + eps * torch.eye(3, dtype=torch.float64)
    a = torch.linalg.solve(s, cov.permute(0, 3, 4, 2, 1)).permute(0, 4, 3, 1, 2)
    b = mean - (a * mu.unsqueeze(1)).sum(2)
    return box_mean(torch.cat([a, b.unsqueeze(2)], 2).flatten(1, 2), radius)


def affine_apply(image: Tensor, models: Tensor) -> Tensor:
    """a . I + b for a floating image, with the models enlarged bilinearly."""
    size = image.shape[-2:]
    enlarged = F.interpolate(models.double(), size, mode="bilinear").view(-1, 3, 4, *size)
    return (enlarged[:, :, :3] * image.double().unsqueeze(1)).sum(2) + enlarged[:, :, 3]
