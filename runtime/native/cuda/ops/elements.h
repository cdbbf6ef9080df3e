// Channels of a tensor as float32, whatever they are stored as; and where a clip's frames are.
#pragma once

#include "../device.h"
#include "../star_ops.h"

__device__ inline float4 scaled(float4 x, float factor) {
    return make_float4(x.x * factor, x.y * factor, x.z * factor, x.w * factor);
}

__device__ inline uint16_t half_bits(float value) {
    const __half rounded = __float2half_rn(value);
    return *reinterpret_cast<const uint16_t *>(&rounded);
}

__device__ inline float half_value(uint32_t bits) {
    const auto low = static_cast<uint16_t>(bits);
    return __half2float(*reinterpret_cast<const __half *>(&low));
}

/// Four neighbouring channels; `scale` is int8's.
__device__ inline float4 load(const float *from, float) { return *reinterpret_cast<const float4 *>(from); }

__device__ inline float4 load(const __half *from, float) {
    const uint2 pairs = *reinterpret_cast<const uint2 *>(from);
    return make_float4(half_value(pairs.x), half_value(pairs.x >> 16), half_value(pairs.y), half_value(pairs.y >> 16));
}

__device__ inline float4 load(const int8_t *from, float scale) {
    const uint32_t levels = *reinterpret_cast<const uint32_t *>(from);
    const auto level = [=](int i) { return static_cast<float>(static_cast<int8_t>(levels >> 8 * i)) * scale; };
    return make_float4(level(0), level(1), level(2), level(3));
}

__device__ inline void store(float *to, float4 x, float) { *reinterpret_cast<float4 *>(to) = x; }

__device__ inline void store(__half *to, float4 x, float) {
    *reinterpret_cast<uint2 *>(to) = make_uint2(half_bits(x.x) | static_cast<uint32_t>(half_bits(x.y)) << 16,
                                                half_bits(x.z) | static_cast<uint32_t>(half_bits(x.w)) << 16);
}

/// A division, not a product with the inverse: the same levels as QuantizeLinear's.
__device__ inline void store(int8_t *to, float4 x, float scale) {
    const auto level = [=](float value) {
        const float rounded = rintf(value / scale);
        return static_cast<uint32_t>(static_cast<int>(fminf(fmaxf(rounded, -127.0f), 127.0f))) & 0xff;
    };
    *reinterpret_cast<uint32_t *>(to) = level(x.x) | level(x.y) << 8 | level(x.z) << 16 | level(x.w) << 24;
}

/// A clip's frames. cu_seqlens is not believed further than that no memory beyond the tensors is touched: TensorRT times
/// kernels on inputs that it makes up.
struct Segment {
    int first, frames;
};

__device__ inline Segment segment_of(int clip, const int32_t *cu_seqlens, int frames) {
    const int first = min(max(cu_seqlens[clip], 0), frames);
    return {first, min(max(cu_seqlens[clip + 1], first), frames) - first};
}

/// The last clip whose place begins at or before `place`, where clip b's begins at cu_seqlens[b] / frames + b * each.
__device__ inline int clip_at(int place, const int32_t *cu_seqlens, int clips, int frames, int each) {
    int low = 0, high = clips - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (cu_seqlens[middle] / frames + middle * each <= place) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}
