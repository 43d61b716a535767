"""Opens onnxruntime's session on a device, without a silent fallback to the CPU."""

from typing import Literal

import onnxruntime

from carinspect.core.errors import UserError

Device = Literal["auto", "cpu", "cuda"]
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def open_session(content: bytes, *, device: Device, threads: int | None) -> onnxruntime.InferenceSession:
    """A session on the device. threads: of one run of the model on a CPU; None takes all cores.

    onnxruntime falls back to the CPU silently, so the session's real provider is checked: with `cuda`, a fallback raises `UserError`;
    `auto` accepts it. Raises onnxruntime's own exceptions for a model that it cannot open.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    if device == "cpu" or (device == "auto" and CUDA not in onnxruntime.get_available_providers()):
        return onnxruntime.InferenceSession(content, options, providers=[CPU])
    if CUDA not in onnxruntime.get_available_providers():
        raise UserError("--device cuda: this onnxruntime has no CUDA in it. Install onnxruntime-gpu in its place, or take --device cpu.")
    # The libraries of the nvidia-* packages are not on the loader's path.
    onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(content, options, providers=[CUDA, CPU])
    if device == "cuda" and CUDA not in session.get_providers():
        raise UserError(
            "--device cuda: onnxruntime could not use the GPU and fell back to the CPU. See that nvidia-smi lists a GPU and that CUDA and "
            "cuDNN match this onnxruntime-gpu, or take --device cpu."
        )
    return session
