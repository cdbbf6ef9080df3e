// What kernels stand on: CUDA, or, where a host compiler reads them, the emulator that runs them on the processor.
#pragma once

#if defined(__CUDACC__)

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#define STAR_DYNAMIC_SHARED(name) extern __shared__ uint4 name[]

/// Launches a kernel with so many threads a block and bytes of dynamic shared memory; returns what the launch returned.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, size_t shared_bytes, cudaStream_t stream,
                   const Arguments &...arguments) {
    if (shared_bytes > 48 * 1024) {
        const cudaError_t error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
        if (error != cudaSuccess) return error;
    }
    kernel<<<grid, threads, shared_bytes, stream>>>(arguments...);
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

/// Four 8 x 8 matrices of halves from shared memory: lane i names row i % 8 of matrix i / 8, and gets of each matrix row i /
/// 4's halves i % 4 * 2 and the next.
__device__ inline void load_matrices(uint32_t (&b)[4], const __half *row) {
    const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(address));
}

/// c += a b of a warp, [16, 8] += [16, 16] [16, 8], float32 sums of halves.
__device__ inline void multiply_add(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                    uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// c += a b of a warp, [16, 8] += [16, 32] [32, 8], int32 sums of int8; the same bytes as halves, half as wide.
__device__ inline void multiply_add(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                    uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// Begins to copy 16 bytes into shared memory; await_copies() ends it.
__device__ inline void copy_16_bytes(void *to, const void *from) {
    const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}

/// Waits for this thread's copies; a barrier must follow.
__device__ inline void await_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

#else
#include "emulator/emulator.h"
#endif
