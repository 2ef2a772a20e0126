"""Which multiples of channels the runtimes compute in: what --round-to says, as a number or as the name of a target."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from onnxprune.errors import UsageError
from onnxprune.registry import near_names

AUTO = "auto"


@dataclass(frozen=True)
class Profile:
    """``multiple``: of channels, rows or columns of weights; ``reason``: one line; ``sources``: (title, URL) of documents."""

    multiple: int
    reason: str
    sources: tuple[tuple[str, str], ...]


ASCEND = (
    "Huawei, Operator Usage Suggestions",
    "https://support.huaweicloud.com/intl/en-us/tngg-atlas500app/atlashpp_06_c30_0014.html",
)
MLAS = (
    "ONNX Runtime, mlas/lib/platform.cpp (NchwcBlockSize)",
    "https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/mlas/lib/platform.cpp",
)
NCNN = (
    "ncnn, element packing",
    "https://github.com/Tencent/ncnn/blob/master/docs/developer-guide/element-packing.md",
)
ONEDNN = (
    "oneDNN, Understanding Memory Formats",
    "https://github.com/oneapi-src/oneDNN/blob/main/doc/advanced/understanding_memory_formats.md",
)
OPENVINO = (
    "OpenVINO 2021.1, CPU Plugin",
    "https://docs.openvino.ai/2021.1/openvino_docs_IE_DG_supported_plugins_CPU.html",
)
TENSOR_CORES = ("NVIDIA CUTLASS, issue 75", "https://github.com/NVIDIA/cutlass/issues/75")
TENSORRT = ("NVIDIA TensorRT, issue 3876", "https://github.com/NVIDIA/TensorRT/issues/3876")

PROFILES: dict[str, Profile] = {
    "artpec-9": Profile(
        16,
        "the accelerator partitions convolution channels into groups of 16",
        (
            (
                "Axis, ARTPEC-9 Optimization Tips",
                "https://developer.axis.com/computer-vision/on-device/system-on-chip/artpec-9/optimization-tips/",
            ),
        ),
    ),
    "ascend-fp16": Profile(16, "advised for the channels of unquantised convolutions on Ascend 310", (ASCEND,)),
    "ascend-int8": Profile(32, "advised for the channels of quantised convolutions on Ascend 310", (ASCEND,)),
    "ncnn-fp32": Profile(4, "elements are packed by 4 (Arm NEON) where the channels divide evenly", (NCNN,)),
    "ncnn-int8": Profile(8, "8-bit elements are packed by 8 (Arm NEON) where the channels divide evenly", (NCNN,)),
    "openvino-avx2": Profile(8, "oneDNN's layout nChw8c: channels are padded with zeros to 8", (ONEDNN, OPENVINO)),
    "openvino-avx512": Profile(16, "oneDNN's layout nChw16c: channels are padded with zeros to 16", (ONEDNN, OPENVINO)),
    "ort-cpu": Profile(8, "block of float convolutions on x86 without AVX-512", (MLAS,)),
    "ort-cpu-avx512": Profile(16, "block of float convolutions with AVX-512", (MLAS,)),
    "qnn-htp": Profile(
        32,
        "Hexagon stores activations in multiples of 32 channels; the rest is padding",
        (
            (
                "Qualcomm, Avoid low depth Activations",
                "https://docs.qualcomm.com/bundle/publicresource/80-63442-10/topics/htp_guidelines_low_depth_activations.md",
            ),
        ),
    ),
    "tensorrt-fp16": Profile(8, "Tensor Cores read 128 bits at a time: 8 half floats", (TENSOR_CORES, TENSORRT)),
    "tensorrt-int8": Profile(16, "Tensor Cores read 128 bits at a time: 16 bytes", (TENSOR_CORES,)),
    "tflite-gpu": Profile(
        4,
        "tensors are sliced into 4 channels: 5 cost what 8 cost",
        (
            (
                "TensorFlow Lite, GPU delegates",
                "https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/g3doc/performance/gpu.md",
            ),
        ),
    ),
    "ti-npu": Profile(
        4,
        "convolutions run on the NPU where their input channels are a multiple of 4",
        (
            (
                "Texas Instruments, Layer Configurations Supported on the NPU",
                "https://software-dl.ti.com/mctools/nnc/mcu/users_guide/layer_configs.html",
            ),
        ),
    ),
    "xnnpack-arm": Profile(
        8,
        "float matrix kernels on NEON compute 8 columns (nr) at a time",
        (
            (
                "XNNPACK, Microkernel naming conventions",
                "https://github.com/google/XNNPACK/blob/master/doc/microkernel-naming-conventions.md",
            ),
            (
                "XNNPACK, gemm-config.c (nr)",
                "https://github.com/google/XNNPACK/blob/master/src/configs/gemm-config.c",
            ),
        ),
    ),
}


def profile_name(round_to: str | int = AUTO, cpu_flags: frozenset[str] | None = None) -> str | None:
    """Return the profile that --round-to names, for ``auto`` that of this CPU, for a number None; raises UsageError."""
    name = str(round_to)
    if name == AUTO:
        return "ort-cpu-avx512" if "avx512f" in (_cpu_flags() if cpu_flags is None else cpu_flags) else "ort-cpu"
    if name in PROFILES:
        return name
    if not (name.isascii() and name.isdigit() and int(name) > 0):
        hint = near_names(name, [AUTO, *PROFILES]) or f"; known: {', '.join((AUTO, *PROFILES))}"
        raise UsageError(f"--round-to {name}: neither a whole number of at least 1 nor the name of a target{hint}")
    return None


def width_step(round_to: str | int = AUTO, cpu_flags: frozenset[str] | None = None) -> int:
    """Return the step of widths: the number given, or the multiple of the target; raises UsageError."""
    name = profile_name(round_to, cpu_flags)
    return int(round_to) if name is None else PROFILES[name].multiple


@lru_cache
def _cpu_flags() -> frozenset[str]:
    """Return the flags of the first CPU, none where the system does not list them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2].split() for line in text.splitlines() if line.startswith("flags"))
    return frozenset(next(flags, []))
