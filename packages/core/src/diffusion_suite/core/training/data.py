"""Data that a resumed run meets in the same order: an endless sampler and the data module around it.

Data sets are map-style. Item ``i`` is a function of ``i`` (and of the seed the data set was given), so data
drawn from nothing are as resumable as files: make item ``i`` from ``core.seeding.generator(seed, i)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler
from typing_extensions import override

from diffusion_suite.core import seeding
from diffusion_suite.core.training.config import TrainConfig


class EndlessSampler(Sampler[int]):
    """Item numbers without end, a function of ``(seed, position)`` only.

    Position ``p`` of the common sequence lies in epoch ``p // length``; each epoch is its own permutation.
    Rank ``r`` of ``w`` takes positions ``start + r, start + r + w, ...``, so the ranks never share an item of
    a step, and another number of devices changes who sees an item, not which items come.

    Args:
        length: number of items; None for data sets without end, whose items are then 0, 1, 2, ... in order.
        seed: seed of the permutations.
        start: first position, i.e. items that earlier steps took over all ranks.
        rank: this process's number.
        world_size: number of processes.
    """

    def __init__(
        self, length: int | None, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if length is not None and length < 1:
            raise ValueError("the data set is empty")
        self.length, self.seed, self.start = length, seed, start
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[int]:
        position = self.start + self.rank
        if self.length is None:
            while True:
                yield position
                position += self.world_size
        epoch, order = -1, torch.empty(0, dtype=torch.long)
        while True:
            if position // self.length != epoch:
                epoch = position // self.length
                order = torch.randperm(self.length, generator=seeding.generator(self.seed, "epoch", epoch))
            yield int(order[position % self.length])
            position += self.world_size


class SuiteDataModule(LightningDataModule):
    """Loaders for :func:`diffusion_suite.core.training.fit`.

    Args:
        dataset: map-style training data. A data set without end sets ``endless = True`` and needs no
            ``__len__``; its item ``i`` is then asked for once, at position ``i``. Others give each item once
            an epoch; where an augmentation should differ from epoch to epoch, make the data set endless.
        validation: map-style data, gone through in order; None for none.
        config: seed, batch size, workers; ``fit`` sets it when None.
        collate: joins items to a batch; torch's default when None.

    A subclass may leave ``dataset`` out and set ``self.dataset`` and ``self.validation`` in ``setup``.
    """

    def __init__(
        self,
        dataset: Dataset[Any] | None = None,
        validation: Dataset[Any] | None = None,
        config: TrainConfig | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        super().__init__()
        self.dataset, self.validation, self.config, self.collate = dataset, validation, config, collate

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        if self.dataset is None or self.config is None or self.trainer is None:
            raise TypeError("the data module needs a data set, and fit() to give it its settings")
        world, rank = self.trainer.world_size, self.trainer.global_rank
        start = self.trainer.global_step * self.config.batch_size * world * self.config.accumulate
        length = None if getattr(self.dataset, "endless", False) else len(self.dataset)  # type: ignore[arg-type]
        return self._loader(self.dataset, EndlessSampler(length, self.config.seed, start, rank, world))

    @override
    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if self.validation is None:
            return []
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        return self._loader(self.validation, range(rank, len(self.validation), world))  # type: ignore[arg-type]

    def _loader(self, dataset: Dataset[Any], sampler: Any) -> DataLoader[Any]:
        assert self.config is not None
        return DataLoader(
            dataset,
            batch_size=self.config.batch_size,
            sampler=sampler,
            num_workers=self.config.workers,
            collate_fn=self.collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.config.workers > 0,
            generator=seeding.generator(self.config.seed, "loader"),
        )
