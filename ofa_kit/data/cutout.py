"""Cutout (DeVries & Taylor 2017): a square of each training image is blanked."""

import torch
from torch import Tensor


def cutout(images: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Return normalised images (N, C, S, S), each with a square of `length` pixels set to 0, the mean.

    Its centre lies anywhere in the image, so that less than the square may be blank.
    """
    if not length:
        return images
    centres = (torch.rand((2, len(images)), generator=generator) * torch.tensor(images.shape[2:])[:, None]).long()
    blank = [
        ((torch.arange(size) >= centre[:, None] - length // 2) & (torch.arange(size) < centre[:, None] + length // 2))
        for size, centre in zip(images.shape[2:], centres, strict=True)
    ]
    kept = ~(blank[0][:, None, :, None] & blank[1][:, None, None, :])
    blanked: Tensor = images * kept.to(images)
    return blanked
