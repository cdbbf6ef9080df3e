// CUDA's threads on a processor, to test kernels where there is no GPU: blocks one after the other, a block's threads as
// fibers that run until they wait for each other. It proves arithmetic, indices and barriers; not speed, and nothing of the
// compiler's.
//
// A thread that leaves a kernel while others wait at a barrier, and threads that wait for each other in different places, end
// the process with a message. Threads take turns in the order of star_emulator_backwards(), so that a race changes results.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#include "../half.h"
#include "streams.h"

#define __global__
#define __device__
#define __shared__ static  // of the one block that runs
#define __launch_bounds__(...)
#define STAR_DYNAMIC_SHARED(name) uint4 *const name = static_cast<uint4 *>(emulator::dynamic_memory())

using std::max;
using std::min;

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

struct __half {
    uint16_t bits;
};
inline __half __float2half_rn(float value) { return {star::half_bits(value)}; }
inline float __half2float(__half half) { return star::half_value(half.bits); }

struct __half2 {
    __half x, y;
};
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float2 __half22float2(__half2 pair) { return {__half2float(pair.x), __half2float(pair.y)}; }

inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
/// NaN where a GPU's own are no longer right to 2^-21.
inline float __sinf(float x) { return std::fabs(x) < 3.2f ? std::sin(x) : NAN; }
inline float __cosf(float x) { return std::fabs(x) < 3.2f ? std::cos(x) : NAN; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float power_of_2(float x) { return std::exp2(x); }
inline float reciprocal(float x) { return 1.0f / x; }

namespace emulator {

/// Of the thread that runs.
extern dim3 thread_index, block_index, block_size, grid_size;

constexpr std::size_t kLaneBytes = 64;  // most that a lane can give

/// Waits until all threads of the block do.
void wait_for_block();
/// Gives `bytes` of memory to the lanes of the mask, and returns the place of lane 0's, kLaneBytes a lane, once all have given
/// theirs; it is theirs to read until end_exchange().
const char *begin_exchange(unsigned mask, const void *from, std::size_t bytes);
void end_exchange(unsigned mask);

/// Of the block; NaN at its start.
void *dynamic_memory();

cudaError_t run(dim3 grid, unsigned threads, std::size_t shared_bytes, const std::function<void()> &thread);

template <class Value>
Value value_of(unsigned mask, Value value, unsigned lane) {
    Value other;
    std::memcpy(&other, begin_exchange(mask, &value, sizeof value) + lane * kLaneBytes, sizeof other);
    end_exchange(mask);
    return other;
}

}  // namespace emulator

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size

inline void __syncthreads() { emulator::wait_for_block(); }
inline void __syncwarp(unsigned mask = 0xffffffff) { emulator::end_exchange(mask); }

template <class Value>
Value __shfl_xor_sync(unsigned mask, Value value, unsigned lanes) {
    return emulator::value_of(mask, value, threadIdx.x % 32 ^ lanes);
}

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared_bytes, cudaStream_t stream,
                   const Arguments &...arguments) {
    return emulator::enqueue(stream,
                             [=] { return emulator::run(grid, threads, shared_bytes, [&] { kernel(arguments...); }); });
}

inline void load_matrices(uint32_t (&b)[4], const __half *row) {
    const unsigned lane = threadIdx.x % 32;
    const char *rows = emulator::begin_exchange(0xffffffff, &row, sizeof row);
    for (unsigned i = 0; i < 4; i++) {
        const char *from;
        std::memcpy(&from, rows + (i * 8 + lane / 4) * emulator::kLaneBytes, sizeof from);
        std::memcpy(&b[i], from + lane % 4 * 4, sizeof b[i]);
    }
    emulator::end_exchange(0xffffffff);
}

void multiply_add(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1);
void multiply_add(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1);

inline void copy_16_bytes(void *to, const void *from) { std::memcpy(to, from, 16); }
inline void await_copies() {}

extern "C" __attribute__((visibility("default"))) void star_emulator_backwards(int backwards);
