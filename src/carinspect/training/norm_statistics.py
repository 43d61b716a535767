"""Averages batch-norm statistics over several micro-batches and processes."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class NormStatistics:
    """Batch-norm statistics that do not depend on which process saw which micro-batch.

    Every micro-batch starts from the statistics before the step; the statistics after the step are the mean over all micro-batches. Since a
    running average is linear, this equals one update with the mean of the micro-batches' statistics.
    """

    def __init__(self, network: nn.Module) -> None:
        self._norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
        self._device = next(network.parameters()).device
        self._counters = [norm.num_batches_tracked for norm in self._norms if norm.num_batches_tracked is not None]

    @property
    def _buffers(self) -> list[torch.Tensor]:
        # Frozen layers are left out: the mean of equal numbers can differ from them in the last bit.
        norms = [norm for norm in self._norms if norm.training]
        return [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var) if buffer is not None]

    def values(self) -> torch.Tensor:
        """A flat copy of all statistics."""
        return torch.cat([torch.zeros(0, device=self._device), *(buffer.flatten() for buffer in self._buffers)])

    def restore(self, values: torch.Tensor) -> None:
        """Set the statistics to `values`, which `values()` returned."""
        sizes = [buffer.numel() for buffer in self._buffers]
        for buffer, part in zip(self._buffers, values.split(sizes) if sizes else (), strict=True):
            buffer.copy_(part.view_as(buffer))
        for counter in self._counters:
            # Nothing reads this count of the process's forward passes, and it would make checkpoints differ.
            counter.zero_()
