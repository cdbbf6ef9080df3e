// StarSparseAttention: a thread takes eight channels of a joint's head in a frame, four where heads have no more; lanes of a
// wider head add up their scores. Neighbours are bits of a word that travels with the launch.
#include <algorithm>

#include "shapes.h"

namespace {

constexpr int kThreads = 256;
constexpr int kEdges = 4;  // at a time, so that their scores do not wait for each other
constexpr float kLog2e = 1.44269504f, kNoEdge = -1e30f;

struct Neighbours {
    uint64_t of[STAR_CUDA_MOST_JOINTS];
};

__device__ float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

__device__ float4 multiply_add(float factor, float4 x, float4 sum) {
    return make_float4(factor * x.x + sum.x, factor * x.y + sum.y, factor * x.z + sum.z, factor * x.w + sum.w);
}

/// The sum over neighbouring lanes, kLanes a group.
template <int kLanes>
__device__ float over_lanes(float value) {
    if constexpr (kLanes > 1) {
        const unsigned lane = threadIdx.x % 32, mask = ((1u << kLanes) - 1) << (lane / kLanes * kLanes);
#pragma unroll
        for (int other = 1; other < kLanes; other *= 2) value += __shfl_xor_sync(mask, value, other);
    }
    return value;
}

template <class Element, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    sparse_attention_kernel(star_cuda_shape shape, star_cuda_format format, Neighbours neighbours, const Element *qkv,
                            Element *out) {
    constexpr int kQuads = kHeadDim >= 8 ? 2 : 1, kLanes = kHeadDim / (4 * kQuads);
    const int item = blockIdx.x * kThreads + threadIdx.x, per_token = shape.heads * kLanes;
    const int token = item / per_token, channel = item % per_token * (4 * kQuads);
    if (token >= shape.frames * shape.joints) return;
    const int joint = token % shape.joints, channels = shape.channels;
    const auto row = [=](int other) { return qkv + static_cast<size_t>(token - joint + other) * (3 * channels) + channel; };

    float4 query[kQuads], sums[kQuads];
    const float scale = kLog2e / sqrtf(static_cast<float>(kHeadDim));
#pragma unroll
    for (int i = 0; i < kQuads; i++) {
        query[i] = scaled(load(row(joint) + 4 * i, format.input_scale), scale);
        sums[i] = make_float4(0, 0, 0, 0);
    }
    float largest = kNoEdge, total = 0;
    for (uint64_t left = neighbours.of[joint]; left != 0;) {
        const Element *others[kEdges];
        float scores[kEdges], maximum = largest;
#pragma unroll
        for (int edge = 0; edge < kEdges; edge++) {
            const bool is_edge = left != 0;
            others[edge] = row(is_edge ? __ffsll(static_cast<long long>(left)) - 1 : joint);
            left &= left - 1;
            float score = 0;
#pragma unroll
            for (int i = 0; i < kQuads; i++) score += dot(query[i], load(others[edge] + channels + 4 * i, format.input_scale));
            score = over_lanes<kLanes>(score);
            scores[edge] = is_edge ? score : kNoEdge;
            maximum = fmaxf(maximum, scores[edge]);
        }
        const float correction = power_of_2(largest - maximum);
        largest = maximum;
        total *= correction;
#pragma unroll
        for (int i = 0; i < kQuads; i++) sums[i] = scaled(sums[i], correction);
#pragma unroll
        for (int edge = 0; edge < kEdges; edge++) {
            const float weight = power_of_2(scores[edge] - maximum);
            total += weight;
#pragma unroll
            for (int i = 0; i < kQuads; i++)
                sums[i] = multiply_add(weight, load(others[edge] + 2 * channels + 4 * i, format.input_scale), sums[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < kQuads; i++)
        store(out + static_cast<size_t>(token) * channels + channel + 4 * i, scaled(sums[i], total > 0 ? 1.0f / total : 0.0f),
              format.output_scale);
}

/// Whether no neighbour is beyond the skeleton.
bool are_neighbours(const uint64_t *neighbours, int joints) {
    const uint64_t beyond = joints == 64 ? 0 : ~uint64_t{0} << joints;
    return std::none_of(neighbours, neighbours + joints, [=](uint64_t word) { return (word & beyond) != 0; });
}

}  // namespace

cudaError_t star_cuda_sparse_attention(const star_cuda_shape *shape, const star_cuda_format *format,
                                       const uint64_t *neighbours, const void *qkv, void *out, cudaStream_t stream) {
    if (shape == nullptr || format == nullptr || neighbours == nullptr) return cudaErrorInvalidValue;
    star_cuda_shape alone = *shape;
    alone.clips = 1;  // whatever the caller left there
    if (!can_run(alone) || !can_store(*format) || !are_neighbours(neighbours, shape->joints)) return cudaErrorInvalidValue;
    if (shape->frames > 0 && (qkv == nullptr || out == nullptr)) return cudaErrorInvalidValue;
    Neighbours words{};
    std::copy(neighbours, neighbours + shape->joints, words.of);
    return for_head_dim(*shape, [&](auto head_dim) {
        constexpr int kHeadDim = decltype(head_dim)::value;
        return for_type(format->type, [&](auto element) {
            using Element = decltype(element);
            if (shape->frames == 0) return cudaSuccess;
            const int64_t items =
                static_cast<int64_t>(shape->frames) * shape->joints * shape->channels / (kHeadDim < 8 ? 4 : 8);
            return launch(sparse_attention_kernel<Element, kHeadDim>, dim3(blocks_of(items, kThreads)), kThreads, 0, stream,
                          alone, *format, words, static_cast<const Element *>(qkv), static_cast<Element *>(out));
        });
    });
}
