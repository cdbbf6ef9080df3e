// Residual and LayerNorm, a warp a row.
#include "../ops/shapes.h"
#include "../star_layers.h"

namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32;
constexpr float kEps = 1e-5f;

__device__ float over_warp(float value) {
#pragma unroll
    for (int other = 16; other > 0; other /= 2) value += __shfl_xor_sync(0xffffffff, value, other);
    return value;
}

__device__ float4 plus(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

/// The row is read anew, from the cache, for its variance and its result: a lane may have any number of channels.
template <class Element>
__global__ void __launch_bounds__(kThreads, 1)
    residual_norm_kernel(int64_t rows, int channels, const Element *x, const Element *branch, const float *weight,
                         const float *bias, const Element *added, Element *out) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
    if (row >= rows) return;
    const int first = static_cast<int>(threadIdx.x) % 32 * 4;
    const auto at = [=](int channel) {
        return plus(load(x + row * channels + channel, 0), load(branch + row * channels + channel, 0));
    };
    float sum = 0;
    for (int channel = first; channel < channels; channel += 128) {
        const float4 value = at(channel);
        sum += value.x + value.y + (value.z + value.w);
    }
    const float mean = over_warp(sum) / static_cast<float>(channels);
    float squares = 0;
    for (int channel = first; channel < channels; channel += 128) {
        const float4 value = plus(at(channel), make_float4(-mean, -mean, -mean, -mean));
        squares += value.x * value.x + value.y * value.y + (value.z * value.z + value.w * value.w);
    }
    const float inverse = rsqrtf(over_warp(squares) / static_cast<float>(channels) + kEps);
    for (int channel = first; channel < channels; channel += 128) {
        const float4 value = plus(at(channel), make_float4(-mean, -mean, -mean, -mean));
        const float4 gain = load(weight + channel, 0), shift = load(bias + channel, 0);
        float4 result = make_float4(value.x * inverse * gain.x + shift.x, value.y * inverse * gain.y + shift.y,
                                    value.z * inverse * gain.z + shift.z, value.w * inverse * gain.w + shift.w);
        if (added != nullptr) result = plus(result, load(added + row * channels + channel, 0));
        store(out + row * channels + channel, result, 0);
    }
}

}  // namespace

cudaError_t star_cuda_residual_norm(star_cuda_type type, int64_t rows, int32_t channels, const void *x, const void *branch,
                                    const float *weight, const float *bias, const void *added, void *out,
                                    cudaStream_t stream) {
    if (rows < 0 || rows > int64_t{INT32_MAX} * kWarps || channels < 4 || channels % 4 != 0 || type == STAR_CUDA_INT8 ||
        weight == nullptr || bias == nullptr)
        return cudaErrorInvalidValue;
    if (rows == 0) return cudaSuccess;
    if (x == nullptr || branch == nullptr || out == nullptr) return cudaErrorInvalidValue;
    return for_float_type(type, [&](auto element) {
        using Element = decltype(element);
        return launch(residual_norm_kernel<Element>, dim3(blocks_of(rows, kWarps)), kThreads, 0, stream, rows, channels,
                      static_cast<const Element *>(x), static_cast<const Element *>(branch), weight, bias,
                      static_cast<const Element *>(added), static_cast<Element *>(out));
    });
}
