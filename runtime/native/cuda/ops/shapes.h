// What the entry points check, and how they choose a kernel for a type and a head's width.
#pragma once

#include <type_traits>

#include "elements.h"

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

inline unsigned blocks_of(int64_t items, int threads) { return static_cast<unsigned>((items + threads - 1) / threads); }

/// What holds for every op; a thread takes four channels, and counts them in 31 bits.
inline bool can_run(const star_cuda_shape &shape) {
    return shape.frames >= 0 && shape.clips >= 1 && shape.joints >= 1 && shape.joints <= STAR_CUDA_MOST_JOINTS &&
           shape.channels >= 4 && shape.channels % 4 == 0 && shape.channels <= 65536 &&
           static_cast<int64_t>(shape.frames) * shape.joints * (shape.channels / 4) <= INT32_MAX &&
           static_cast<int64_t>(shape.frames) + shape.clips <= INT32_MAX;
}

inline bool can_store(const star_cuda_format &format) {
    return format.type == STAR_CUDA_FP32 || format.type == STAR_CUDA_FP16 ||
           (format.type == STAR_CUDA_INT8 && format.input_scale > 0 && format.output_scale > 0);
}

/// call(element) with a value of the type's element.
template <class Call>
cudaError_t for_type(star_cuda_type type, const Call &call) {
    switch (type) {
        case STAR_CUDA_FP32:
            return call(float{});
        case STAR_CUDA_FP16:
            return call(__half{});
        case STAR_CUDA_INT8:
            return call(int8_t{});
    }
    return cudaErrorInvalidValue;
}

/// The same for what is float32 or float16 only.
template <class Call>
cudaError_t for_float_type(star_cuda_type type, const Call &call) {
    return type == STAR_CUDA_FP32 ? call(float{}) : type == STAR_CUDA_FP16 ? call(__half{}) : cudaErrorInvalidValue;
}

/// call(width of a head) with a Constant; cudaErrorInvalidValue for a width there is no kernel for.
template <class Call>
cudaError_t for_head_dim(const star_cuda_shape &shape, const Call &call) {
    if (shape.heads < 1 || shape.channels % shape.heads != 0) return cudaErrorInvalidValue;
    switch (shape.channels / shape.heads) {
        case 4:
            return call(Constant<4>());
        case 8:
            return call(Constant<8>());
        case 16:
            return call(Constant<16>());
        case 32:
            return call(Constant<32>());
        case 64:
            return call(Constant<64>());
        default:
            return cudaErrorInvalidValue;
    }
}
