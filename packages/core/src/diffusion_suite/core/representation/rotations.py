"""Label augmentation by rotations (SLA; Lee et al. 2020) for small classifiers and probes on pictures.

A classifier of C classes and 4 rotations learns 4 C joint classes; its answer adds up the logits of the four
rotated copies at their own rotation, and a plain head learns that answer by distillation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ROTATIONS = 4


def rotated(pictures: Tensor) -> Tensor:
    """All four rotations of square pictures: (4 * batch, channels, side, side), a whole batch after another.

    Raises:
        ValueError: the pictures are not square.
    """
    if pictures.shape[-1] != pictures.shape[-2]:
        raise ValueError(f"pictures of {tuple(pictures.shape[-2:])} are not square")
    return torch.cat([pictures.rot90(turns, (-2, -1)) for turns in range(ROTATIONS)])


def joint_labels(labels: Tensor) -> Tensor:
    """Labels of the joint classes for `rotated` pictures: 4 * class + rotation."""
    return torch.cat([ROTATIONS * labels + turns for turns in range(ROTATIONS)])


def aggregated(logits: Tensor) -> Tensor:
    """Logits (batch, classes) from joint ones of `rotated` pictures, (4 * batch, 4 * classes).

    The mean over the rotations m of the logit of (class, m) on the copy turned by m.
    """
    copies, classes = len(logits) // ROTATIONS, logits.shape[1] // ROTATIONS
    own: Tensor = logits.reshape(ROTATIONS, copies, classes, ROTATIONS).diagonal(dim1=0, dim2=3)
    return own.mean(-1)


def rotation_loss(joint: Tensor, plain: Tensor, labels: Tensor, distilled: float = 1.0) -> Tensor:
    """Cross-entropy of the joint classes, and of a plain head with the labels and with the aggregated answer.

    Args:
        joint: (4 * batch, 4 * classes), of `rotated` pictures.
        plain: (batch, classes), of the upright pictures.
        labels: (batch,).
        distilled: weight of KL(aggregated || plain); the aggregated answer gets no gradient from it.
    """
    teacher = aggregated(joint).detach()
    kl = F.kl_div(F.log_softmax(plain, 1), F.log_softmax(teacher, 1), log_target=True, reduction="batchmean")
    answers = F.cross_entropy(joint, joint_labels(labels)) + F.cross_entropy(plain, labels)
    return answers + distilled * kl
