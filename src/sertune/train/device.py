"""Where a run computes, and in which precision; accelerate does both."""

import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sertune.config import RunConfig
from sertune.errors import SertuneError
from sertune.model.attention import Kernel
from sertune.model.encoder import Encoder

HALF_WIDTH = 256
"""On a CPU, `auto` takes bf16 from this width on: narrower matrices lose more to conversion than they gain."""


class Device:
    """A device with a precision.

    Args:
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        width: channels of the encoder, for ``auto``.

    Attributes:
        torch: the torch device.
        precision: what was chosen.
        scales: whether losses are scaled (fp16).
    """

    def __init__(self, precision: str, width: int) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        has_gpu = torch.cuda.is_available()
        if precision == "fp16" and not has_gpu:
            raise SertuneError("precision = fp16: needs a GPU, on a CPU it is thousands of times slower; choose bf16")
        self.precision = choose_precision(width) if precision == "auto" else precision
        self.scales = self.precision == "fp16"
        AcceleratorState._reset_state(True)  # accelerate keeps one state per process; a run makes its own
        mixed = {"fp32": "no"}.get(self.precision, self.precision)
        self._accelerator: Any = Accelerator(cpu=not has_gpu, mixed_precision=mixed)
        self.torch = cast("torch.device", self._accelerator.device)

    def prepare(self, module: nn.Module) -> None:
        """Moves a module here."""
        module.to(self.torch)

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which the model computes; losses stay outside."""
        return cast("AbstractContextManager[None]", self._accelerator.autocast())

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, scaled under fp16."""
        self._accelerator.backward(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Brings gradients back to their size, before they are clipped."""
        if self.scales:
            self._accelerator.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """One update of the optimiser, skipped under fp16 where gradients overflowed."""
        if self.scales:
            self._accelerator.scaler.step(optimizer)
            self._accelerator.scaler.update()
        else:
            optimizer.step()

    def set_up(self, encoder: Encoder, config: RunConfig) -> None:
        """Precision of the frozen weights, attention and checkpointing, once the method is applied."""
        if self.precision != "fp32":
            encoder.halve_frozen(torch.bfloat16 if self.precision == "bf16" else torch.float16)
        encoder.use_attention(self.kernel(config.attention))
        encoder.checkpointing = config.train.checkpointing

    def kernel(self, wanted: str = "auto") -> Kernel:
        """`auto`: on a CPU plain products in bf16 (measured: 2 to 3.5 times faster), torch's fused attention else."""
        if wanted == "flash" and (self.torch.type == "cpu" or self.precision == "fp32"):
            raise SertuneError("attention = flash: needs a GPU and bf16 or fp16; choose auto")
        if wanted == "auto":
            return "plain" if self.torch.type == "cpu" and self.precision == "bf16" else "sdpa"
        return cast("Kernel", wanted)

    @property
    def scale(self) -> float:
        """Factor of the loss under fp16; 0 without."""
        return float(self._accelerator.scaler.get_scale()) if self.scales else 0.0

    def set_scale(self, scale: float) -> None:
        """Goes on with the factor of a checkpoint."""
        if self.scales and scale:
            self._accelerator.scaler.update(scale)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.torch.type == "cuda":
            torch.cuda.synchronize()

    def free_memory_mib(self) -> float:
        """Memory that this process may come to take in all, in MiB."""
        if self.torch.type == "cuda":
            return torch.cuda.mem_get_info()[0] / 2**20 + torch.cuda.memory_reserved() / 2**20
        import psutil

        own = psutil.Process().memory_info().rss
        free = psutil.virtual_memory().available + own
        limit = Path("/sys/fs/cgroup/memory.max")  # of a container
        text = limit.read_text().strip() if limit.is_file() else "max"
        return float(min(free, int(text)) if text.isdigit() else free) / 2**20

    def peak_memory_mib(self) -> float:
        """Peak memory in MiB: of the GPU if there is one, else of the process."""
        if self.torch.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return _peak_resident_mib()


def _peak_resident_mib() -> float:
    """Most memory that this process held; `getrusage` would count the parent's before the process began."""
    import resource

    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    peak = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    if peak is not None:
        return int(peak) / 1024
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def choose_precision(width: int) -> str:
    """bf16 where the hardware has it and the model is wide enough to gain, fp16 on other GPUs, else fp32."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    flags = set(_cpu_line("flags", "Features").split())
    return "bf16" if width >= HALF_WIDTH and flags & {"avx512_bf16", "amx_bf16", "bf16"} else "fp32"


def _cpu_line(*names: str) -> str:
    """The first line of the kernel's description of the CPU with one of these names; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(names)), "")


def describe_machine(device: Device) -> dict[str, Any]:
    """CPU, cores, device, precision and library versions, for the report."""
    import platform

    import transformers

    name = _cpu_line("model name") or platform.processor() or platform.machine()
    gpu = torch.cuda.get_device_name() if device.torch.type == "cuda" else ""
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "device": gpu or device.torch.type,
        "precision": device.precision,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
