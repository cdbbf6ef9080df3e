"""The part of CUDA that running an engine takes, through ctypes: libcudart comes with JetPack and any CUDA, cuda-python with neither.

TensorRT wants addresses as integers and so does ctypes. Every function of the runtime library raises MismatchError where CUDA
returns an error.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import MismatchError
from runtime.tensorrt.sidecar import Gpu

_TOOLKIT = Path("/usr/local/cuda")
_NAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_DRIVER = "libcuda.so.1"
# cudaDeviceAttr
_MULTIPROCESSORS, _INTEGRATED, _MAJOR, _MINOR = 16, 18, 75, 76
_HOST_ALLOC_MAPPED, _NON_BLOCKING, _CAPTURE_THREAD = 2, 1, 1
_TO_DEVICE, _TO_HOST = 1, 2

_address, _handle = POINTER(c_void_p), c_void_p
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cudaRuntimeGetVersion": (POINTER(c_int),),
    "cudaDriverGetVersion": (POINTER(c_int),),
    "cudaGetDeviceCount": (POINTER(c_int),),
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaMalloc": (_address, c_size_t),
    "cudaFree": (c_void_p,),
    "cudaHostAlloc": (_address, c_size_t, c_uint),
    "cudaFreeHost": (c_void_p,),
    "cudaHostGetDevicePointer": (_address, c_void_p, c_uint),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, _handle),
    "cudaStreamCreateWithFlags": (_address, c_uint),
    "cudaStreamDestroy": (_handle,),
    "cudaStreamSynchronize": (_handle,),
    "cudaStreamBeginCapture": (_handle, c_int),
    "cudaStreamEndCapture": (_handle, _address),
    "cudaGraphInstantiate": (_address, _handle, c_ulonglong),
    "cudaGraphLaunch": (_handle, _handle),
    "cudaGraphDestroy": (_handle,),
    "cudaGraphExecDestroy": (_handle,),
    "cudaEventCreate": (_address,),
    "cudaEventRecord": (_handle, _handle),
    "cudaEventElapsedTime": (POINTER(c_float), _handle, _handle),
    "cudaEventDestroy": (_handle,),
}


class Buffer:
    """An array on the host and its place on the device: the same memory where the GPU is integrated.

    Attributes:
        host: the array. device: address of its copy. is_shared: what is written to one is in the other.
    """

    def __init__(self, cuda: Cuda, shape: tuple[int, ...], dtype: np.dtype, is_shared: bool) -> None:
        self.is_shared = is_shared
        size = int(np.prod(shape)) * dtype.itemsize
        self._pinned = cuda.make("cudaHostAlloc", size, _HOST_ALLOC_MAPPED if is_shared else 0)
        try:
            self.device = (
                cuda.make("cudaHostGetDevicePointer", self._pinned, 0) if is_shared else cuda.make("cudaMalloc", size)
            )
        except MismatchError:
            cuda.free("cudaFreeHost", self._pinned)
            raise
        memory = memoryview((ctypes.c_byte * size).from_address(self._pinned))
        self.host: np.ndarray = np.frombuffer(memory, dtype).reshape(shape)
        self.host[...] = 0

    def free(self, cuda: Cuda) -> None:
        if not self.is_shared:
            cuda.free("cudaFree", self.device)
        cuda.free("cudaFreeHost", self._pinned)


class Cuda:
    """CUDA's runtime on the first GPU; see :func:`open_cuda`.

    Attributes:
        gpu: what the device tells of itself.
        runtime, driver: versions, e.g. 12.6: of the library, and the newest that the driver takes.
    """

    def __init__(self, library: Any, driver: Any) -> None:
        self._library = library
        for name, arguments in _FUNCTIONS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, c_int
        library.cudaGetErrorString.argtypes, library.cudaGetErrorString.restype = (c_int,), c_char_p
        self._require_gpu()
        self.runtime, self.driver = (
            _version(self._number(name)) for name in ("cudaRuntimeGetVersion", "cudaDriverGetVersion")
        )
        self.gpu = Gpu(
            name=_name(driver),
            sm=10 * self._attribute(_MAJOR) + self._attribute(_MINOR),
            multiprocessors=self._attribute(_MULTIPROCESSORS),
            integrated=bool(self._attribute(_INTEGRATED)),
        )

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function; MismatchError with CUDA's words where it fails."""
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise MismatchError("CUDA failed", where=name, found=f"{self._words(status)} ({status})", hint="star-edge doctor")

    def make(self, name: str, *arguments: Any) -> int:
        """Call a function that gives an address or handle by its first argument."""
        made = c_void_p()
        self.call(name, byref(made), *arguments)
        assert made.value is not None
        return made.value

    def free(self, name: str, *arguments: Any) -> None:
        """Call a function that ends something; its failure is of no use to anyone."""
        getattr(self._library, name)(*arguments)

    def buffer(self, shape: tuple[int, ...], dtype: np.dtype) -> Buffer:
        """Pinned memory for an array of zeros, which the GPU sees without a copy where it is integrated."""
        return Buffer(self, shape, dtype, self.gpu.integrated)

    def upload(self, buffer: Buffer, stream: int) -> None:
        """Put a buffer's host side onto the device, if they are two."""
        if not buffer.is_shared:
            self.call("cudaMemcpyAsync", buffer.device, buffer.host.ctypes.data, buffer.host.nbytes, _TO_DEVICE, stream)

    def download(self, buffer: Buffer, stream: int) -> None:
        """The other way."""
        if not buffer.is_shared:
            self.call("cudaMemcpyAsync", buffer.host.ctypes.data, buffer.device, buffer.host.nbytes, _TO_HOST, stream)

    def stream(self) -> int:
        return self.make("cudaStreamCreateWithFlags", _NON_BLOCKING)

    def synchronize(self, stream: int) -> None:
        self.call("cudaStreamSynchronize", stream)

    def event(self) -> int:
        return self.make("cudaEventCreate")

    def record(self, event: int, stream: int) -> None:
        self.call("cudaEventRecord", event, stream)

    def seconds(self, begin: int, end: int) -> float:
        """Time between two recorded events that have passed."""
        milliseconds = c_float()
        self.call("cudaEventElapsedTime", byref(milliseconds), begin, end)
        return milliseconds.value / 1e3

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """What ``enqueue`` puts on a stream, as a graph to launch."""
        graph = c_void_p()
        self.call("cudaStreamBeginCapture", stream, _CAPTURE_THREAD)
        try:
            enqueue()
        except BaseException:
            self.free("cudaStreamEndCapture", stream, byref(graph))  # else the stream would go on recording
            raise
        self.call("cudaStreamEndCapture", stream, byref(graph))
        try:
            return self.make("cudaGraphInstantiate", graph, 0)
        finally:
            self.free("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        self.call("cudaGraphLaunch", graph, stream)

    def _require_gpu(self) -> None:
        count = c_int()
        status = self._library.cudaGetDeviceCount(byref(count))
        if status != 0 or count.value == 0:
            raise MismatchError(
                "there is no GPU that CUDA can use",
                found=f"{self._words(status)} ({status})" if status else "no device",
                expected="a Jetson, or another NVIDIA GPU with its driver",
                hint="star-edge doctor; in a container: --runtime nvidia",
            )

    def _number(self, function: str) -> int:
        number = c_int()
        self.call(function, byref(number))
        return number.value

    def _attribute(self, attribute: int) -> int:
        value = c_int()
        self.call("cudaDeviceGetAttribute", byref(value), attribute, 0)
        return value.value

    def _words(self, status: int) -> str:
        return str(self._library.cudaGetErrorString(status).decode(errors="replace"))


@cache
def open_cuda() -> Cuda:
    """CUDA on this machine's first GPU; MismatchError where there is no library or no GPU."""
    return Cuda(_load(_NAMES, "the library of CUDA 12 or 13"), _load((_DRIVER,), "NVIDIA's driver"))


def _load(names: tuple[str, ...], expected: str) -> ctypes.CDLL:
    """The first library that is there: the toolkit that /usr/local/cuda leads to has the version that came with TensorRT."""
    found = [path for folder in ("lib64", "lib", "targets/aarch64-linux/lib") for name in names
             if (path := _TOOLKIT / folder / name).is_file()]  # fmt: skip
    reasons = []
    for name in (*map(str, found), *names):
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            reasons.append(str(error))
    raise MismatchError(
        f"CUDA's {names[-1]} is not here",
        found=reasons[0],
        expected=expected,
        hint="on a Jetson: sudo apt-get install nvidia-jetpack; in a container: --runtime nvidia",
    )


def _name(driver: Any) -> str:
    """The first GPU's name. From the driver, since the runtime has it in a structure that differs between versions."""
    device, name = c_int(), ctypes.create_string_buffer(256)
    failed = driver.cuInit(0) or driver.cuDeviceGet(byref(device), 0) or driver.cuDeviceGetName(name, len(name), device)
    return "unknown" if failed else name.value.decode(errors="replace")


def _version(number: int) -> str:
    """12060 -> 12.6."""
    return f"{number // 1000}.{number % 1000 // 10}"
