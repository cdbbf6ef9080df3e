// TensorRT's headers, of any version that has plugins of the third generation and that star-edge supports.
#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#if NV_TENSORRT_MAJOR < 10 || (NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR < 3)
#error "star-edge's plugins need TensorRT 10.3 or newer (JetPack 6.1)"
#endif
