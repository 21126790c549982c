"""Device and precision, chosen once with a reason, and the Fabric that applies them."""

import os
from typing import Any, Literal

import torch

from worldmodels.config import Config
from worldmodels.errors import UserError
from worldmodels.kernels import dispatch

_MIXED: dict[str, Literal["bf16-mixed", "16-mixed"]] = {"bf16": "bf16-mixed", "16": "16-mixed"}


def choose_device(config: Config) -> tuple[str, str, list[str]]:
    """(device, precision, reasons); raises UserError where the wanted device is not there."""
    device, why = _device(config.device)
    precision, because = _precision(config.precision, device)
    reasons = [f"device {device}: {why}", f"precision {precision}: {because}", _threads(config)]
    return device, precision, reasons


def _device(wanted: str) -> tuple[str, str]:
    kind, _, index = wanted.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (index and not index.isdecimal()):
        raise UserError(f"--device is auto, cpu, cuda, cuda:N or mps, not '{wanted}'")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device {wanted} needs a CUDA GPU, and torch {torch.__version__} sees none; "
            "use --device cpu, or install a CUDA build of torch"
        )
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {wanted}: there are {torch.cuda.device_count()} CUDA devices, from cuda:0"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps needs an Apple GPU, and torch sees none; use --device cpu")
    if kind != "auto":
        return wanted, "as asked"
    if torch.cuda.is_available():
        return "cuda:0", f"torch sees {torch.cuda.get_device_name(0)}"
    if torch.backends.mps.is_available():
        return "mps", "torch sees an Apple GPU"
    return "cpu", "torch sees no GPU"


def _precision(wanted: str, device: str) -> tuple[str, str]:
    if wanted == "16" and device == "cpu":
        raise UserError("--precision 16 needs a GPU; use --precision 32 or bf16 on a CPU")
    if wanted != "auto":
        return wanted, "as asked"
    if not device.startswith("cuda"):
        return "32", f"the default on {device}"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", "the GPU computes bfloat16; losses and distributions stay float32"
    return "32", "the GPU has no bfloat16"


def _threads(config: Config) -> str:
    """What `apply_torch_settings` and the command line made of the CPU's threads."""
    why = "as asked" if config.threads else "torch's own choice"
    spins = os.environ.get("GOMP_SPINCOUNT")
    return f"threads {torch.get_num_threads()}: {why}" + (
        f", GOMP_SPINCOUNT={spins}" if spins else ""
    )


def build_fabric(device: str, precision: str) -> Any:
    """A launched one-device Fabric."""
    from lightning.fabric import Fabric  # takes seconds to import

    from worldmodels.runtime.precision import Autocast

    kind, _, index = device.partition(":")
    fabric = Fabric(
        accelerator=kind,
        devices=[int(index or 0)] if kind == "cuda" else 1,
        plugins=None if precision == "32" else Autocast(_MIXED[precision], kind),
    )
    fabric.launch()
    return fabric


def choose_kernels(device: torch.device) -> list[dispatch.Choice]:
    """The implementation of every operator there; raises UserError for one that cannot run."""
    try:
        return [dispatch.choose(name, device.type) for name in dispatch.OPERATORS]
    except ValueError as error:
        raise UserError(str(error)) from error


def apply_torch_settings(config: Config) -> None:
    """Threads, kernels, determinism and matrix precision of this process."""
    dispatch.prefer(config.kernel)
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(config.deterministic)
    torch.backends.cudnn.benchmark = not config.deterministic
    # TF32 on GPUs that have it
    torch.set_float32_matmul_precision("highest" if config.deterministic else "high")
