// StarContextAttention: a block pools one joint of one clip. It reads the clip's frames three times, from the cache after the
// first: for their mean, for each frame's score, and for the mean of gated frames.
#include "shapes.h"

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kStage = 128;  // frames whose gates are known at a time
constexpr int kMostQuads = STAR_CUDA_MOST_POOLED / 4;
static_assert(kMostQuads <= kThreads);

/// One joint's rows of a clip.
template <class Element>
struct Rows {
    const Element *first;
    size_t stride;
    float scale;

    __device__ float4 at(int frame, int channel) const { return load(first + frame * stride + channel, scale); }
};

/// Threads in a grid of lanes by quads of channels: which lane takes every how many frames.
struct Share {
    int lane, lanes, channel;
    bool works;
};

__device__ Share share_of(int channels) {
    const int quads = channels / 4, lanes = kThreads / quads, lane = static_cast<int>(threadIdx.x) / quads;
    return {lane, lanes, static_cast<int>(threadIdx.x) % quads * 4, lane < lanes};
}

__device__ void add(float4 x, float factor, float4 &sum) {
    sum = make_float4(sum.x + x.x * factor, sum.y + x.y * factor, sum.z + x.z * factor, sum.w + x.w * factor);
}

/// Adds up the lanes' sums in order; total [channels] of the block, valid behind the next barrier.
__device__ void over_lanes(float4 sum, const Share &share, int channels, float factor, float4 *lanes, float *total) {
    lanes[threadIdx.x] = sum;
    __syncthreads();
    const int quads = channels / 4;
    if (threadIdx.x < static_cast<unsigned>(quads)) {
        float4 all = make_float4(0, 0, 0, 0);
        for (int lane = 0; lane < share.lanes; lane++) add(lanes[lane * quads + threadIdx.x], 1.0f, all);
        *reinterpret_cast<float4 *>(total + threadIdx.x * 4) = scaled(all, factor);
    }
}

__device__ inline float as_float(float value) { return value; }
__device__ inline float as_float(__half value) { return __half2float(value); }

/// tanh(mean W), an output a thread.
template <class Weight>
__device__ void project(const float *mean, const Weight *weight, int channels, float *context) {
    for (int output = threadIdx.x; output < channels; output += kThreads) {
        float sum = 0;
        for (int input = 0; input < channels; input++)
            sum += mean[input] * as_float(weight[static_cast<size_t>(input) * channels + output]);
        context[output] = tanhf(sum);
    }
}

/// sigmoid(x . context) of some frames, a warp a frame.
template <class Element>
__device__ void open_gates(const Rows<Element> &rows, int begin, int end, int channels, const float *context, float *gates) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    for (int frame = begin + static_cast<int>(threadIdx.x) / 32; frame < end; frame += kWarps) {
        float score = 0;
        for (int channel = lane * 4; channel < channels; channel += 128) {
            const float4 x = rows.at(frame, channel), c = *reinterpret_cast<const float4 *>(context + channel);
            score += x.x * c.x + x.y * c.y + x.z * c.z + x.w * c.w;
        }
#pragma unroll
        for (int other = 16; other > 0; other /= 2) score += __shfl_xor_sync(0xffffffff, score, other);
        if (lane == 0) gates[frame - begin] = 1.0f / (1.0f + expf(-score));
    }
}

template <class Element, class Weight>
__global__ void __launch_bounds__(kThreads, 1)
    context_attention_kernel(star_cuda_shape shape, star_cuda_format format, const Element *x, const Weight *weight,
                             const int32_t *cu_seqlens, Element *out) {
    __shared__ float4 lanes[kThreads];
    __shared__ float4 mean[kMostQuads], context[kMostQuads];
    __shared__ float gates[kStage];
    const int channels = shape.channels, clip = blockIdx.x / shape.joints, joint = blockIdx.x % shape.joints;
    const Segment segment = segment_of(clip, cu_seqlens, shape.frames);
    const int frames = segment.frames;
    const size_t stride = static_cast<size_t>(shape.joints) * channels;
    const Rows<Element> rows = {x + segment.first * stride + static_cast<size_t>(joint) * channels, stride,
                                format.input_scale};
    auto *means = reinterpret_cast<float *>(mean), *contexts = reinterpret_cast<float *>(context);
    const Share share = share_of(channels);
    const float inverse = 1.0f / static_cast<float>(max(frames, 1));

    float4 sum = make_float4(0, 0, 0, 0);
    if (share.works)
        for (int frame = share.lane; frame < frames; frame += share.lanes) add(rows.at(frame, share.channel), 1.0f, sum);
    over_lanes(sum, share, channels, inverse, lanes, means);
    __syncthreads();
    project(means, weight, channels, contexts);
    sum = make_float4(0, 0, 0, 0);
    for (int begin = 0; begin < frames; begin += kStage) {
        const int end = min(begin + kStage, frames);
        __syncthreads();  // the context is there; the gates before are used
        open_gates(rows, begin, end, channels, contexts, gates);
        __syncthreads();
        if (share.works)
            for (int frame = begin + share.lane; frame < end; frame += share.lanes)
                add(rows.at(frame, share.channel), gates[frame - begin], sum);
    }
    over_lanes(sum, share, channels, inverse, lanes, means);
    __syncthreads();
    if (threadIdx.x < static_cast<unsigned>(channels / 4))
        store(out + static_cast<size_t>(blockIdx.x) * channels + threadIdx.x * 4, mean[threadIdx.x], format.output_scale);
}

}  // namespace

cudaError_t star_cuda_context_attention(const star_cuda_shape *shape, const star_cuda_format *format,
                                        star_cuda_type weight_type, const void *x, const void *weight,
                                        const int32_t *cu_seqlens, void *out, cudaStream_t stream) {
    if (shape == nullptr || format == nullptr || !can_run(*shape) || shape->channels > STAR_CUDA_MOST_POOLED ||
        !can_store(*format) || (weight_type != STAR_CUDA_FP32 && weight_type != STAR_CUDA_FP16) ||
        (shape->frames > 0 && x == nullptr) || weight == nullptr || cu_seqlens == nullptr || out == nullptr ||
        static_cast<int64_t>(shape->clips) * shape->joints > INT32_MAX)
        return cudaErrorInvalidValue;
    return for_type(format->type, [&](auto element) {
        using Element = decltype(element);
        const auto run = [&](auto *weights) {
            using Weight = std::remove_const_t<std::remove_pointer_t<decltype(weights)>>;
            return launch(context_attention_kernel<Element, Weight>, dim3(shape->clips * shape->joints), kThreads, 0, stream,
                          *shape, *format, static_cast<const Element *>(x), weights, cu_seqlens, static_cast<Element *>(out));
        };
        return weight_type == STAR_CUDA_FP32 ? run(static_cast<const float *>(weight))
                                             : run(static_cast<const __half *>(weight));
    });
}
