// What kernels stand on: CUDA, or, where a host compiler reads them, the emulator that runs them on the processor.
#pragma once

#if defined(__CUDACC__)

#include <cuda_fp16.h>

/// Launches without dynamic shared memory; returns what the launch returned.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, cudaStream_t stream,
                   const Arguments &...arguments) {
    kernel<<<grid, threads, 0, stream>>>(arguments...);
    return cudaGetLastError();
}

__device__ inline float power_of_2(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

__device__ inline float reciprocal(float x) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

#else
#include "emulator/emulator.h"
#endif
