// StarSegmentedLinearAttention in three launches. Clips are cut into chunks of frames from their start: each is summed by a
// block, a clip's chunks are added up in order, and a block applies the clip's sums to a chunk. So a clip's result depends
// neither on its batch nor on who is first.
//
// Chunk k of clip b has slot cu_seqlens[b] / frames of a chunk + b + k, which no other chunk has. The state of a head is
// [d + 1][d]: U, key by value, and Z in the last row.
#include "shapes.h"

namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 64;     // frames
constexpr int kStage = 32;     // frames in shared memory at a time
constexpr int kChannels = 64;  // of a block: as many heads as fit in
constexpr int kQuads = kChannels / 4;

struct Chunk {
    int first_frame, frames, clip_slot;
};

/// Of the clip's first chunk.
__device__ int slot_of(const Segment &segment, int clip) { return segment.first / kChunk + clip; }

__device__ Chunk chunk_of(int slot, const int32_t *cu_seqlens, const star_cuda_shape &shape) {
    const int clip = clip_at(slot, cu_seqlens, shape.clips, kChunk, 1);
    const Segment segment = segment_of(clip, cu_seqlens, shape.frames);
    const int clip_slot = slot_of(segment, clip), before = max(slot - clip_slot, 0) * kChunk;
    return {segment.first + before, min(max(segment.frames - before, 0), kChunk), clip_slot};
}

__device__ float phi(float u) { return u > 0.0f ? u + 1.0f : expf(u); }

__device__ float4 phi(float4 u, float scale) {
    return make_float4(phi(u.x * scale), phi(u.y * scale), phi(u.z * scale), phi(u.w * scale));
}

/// d^(-1/4), for queries and keys alike.
template <int kHeadDim>
__device__ float scale_of() {
    return 1.0f / sqrtf(sqrtf(static_cast<float>(kHeadDim)));
}

template <int kHeadDim>
__device__ size_t state_at(const star_cuda_shape &shape, int slot, int joint, int head) {
    return ((static_cast<size_t>(slot) * shape.joints + joint) * shape.heads + head) * ((kHeadDim + 1) * kHeadDim);
}

/// U and Z of a chunk: a thread sums four keys by four values of a head over every kLanes-th frame; then lanes are added up.
template <class Element, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    sum_kernel(star_cuda_shape shape, star_cuda_format format, const Element *qkv, const int32_t *cu_seqlens, float *states) {
    constexpr int kTilesOfRow = kHeadDim / 4, kTilesOfHead = kTilesOfRow * kTilesOfRow;
    constexpr int kTiles = kChannels / kHeadDim * kTilesOfHead, kLanes = kThreads / kTiles;
    static_assert(2 * kStage * kChannels >= kThreads * 16);
    __shared__ float shared[2 * kStage * kChannels];
    float *keys = shared, *values = shared + kStage * kChannels;

    const Chunk chunk = chunk_of(blockIdx.x, cu_seqlens, shape);
    if (chunk.frames == 0) return;
    const int groups = (shape.channels + kChannels - 1) / kChannels;
    const int joint = blockIdx.y / groups, first_channel = static_cast<int>(blockIdx.y % groups) * kChannels;
    const int tile = static_cast<int>(threadIdx.x) % kTiles, lane = static_cast<int>(threadIdx.x) / kTiles;
    const int head = tile / kTilesOfHead, key = tile % kTilesOfHead / kTilesOfRow * 4, value = tile % kTilesOfRow * 4;
    const float scale = scale_of<kHeadDim>();
    float products[4][4] = {}, sums[4] = {};

    for (int begin = 0; begin < chunk.frames; begin += kStage) {
        __syncthreads();  // the frames before are done
        for (int i = threadIdx.x; i < kStage * kQuads; i += kThreads) {
            const int frame = begin + i / kQuads, channel = i % kQuads * 4;
            float4 k = make_float4(0, 0, 0, 0), v = k;
            if (frame < chunk.frames && first_channel + channel < shape.channels) {
                const Element *row =
                    qkv + (static_cast<size_t>(chunk.first_frame + frame) * shape.joints + joint) * (3 * shape.channels) +
                    first_channel + channel;
                k = phi(load(row + shape.channels, format.input_scale), scale);
                v = load(row + 2 * shape.channels, format.input_scale);
            }
            reinterpret_cast<float4 *>(keys)[i] = k;
            reinterpret_cast<float4 *>(values)[i] = v;
        }
        __syncthreads();
        for (int frame = lane; frame < kStage; frame += kLanes) {
            const float4 k = *reinterpret_cast<const float4 *>(keys + frame * kChannels + head * kHeadDim + key);
            const float4 v = *reinterpret_cast<const float4 *>(values + frame * kChannels + head * kHeadDim + value);
            const float own[4] = {k.x, k.y, k.z, k.w};
#pragma unroll
            for (int a = 0; a < 4; a++) {
                products[a][0] += own[a] * v.x;
                products[a][1] += own[a] * v.y;
                products[a][2] += own[a] * v.z;
                products[a][3] += own[a] * v.w;
                sums[a] += own[a];
            }
        }
    }

    __syncthreads();
#pragma unroll
    for (int i = 0; i < 16; i++) shared[(lane * 16 + i) * kTiles + tile] = products[i / 4][i % 4];
    __syncthreads();
    const int first_head = first_channel / kHeadDim;
    for (int i = threadIdx.x; i < kTiles * 16; i += kThreads) {
        const int at = i % kTiles, of_head = first_head + at / kTilesOfHead;
        float sum = 0;
        for (int other = 0; other < kLanes; other++) sum += shared[other * 16 * kTiles + i];
        const int a = at % kTilesOfHead / kTilesOfRow * 4 + i / kTiles / 4, b = at % kTilesOfRow * 4 + i / kTiles % 4;
        if (of_head < shape.heads) states[state_at<kHeadDim>(shape, blockIdx.x, joint, of_head) + a * kHeadDim + b] = sum;
    }
    __syncthreads();
    if (value == 0)
        for (int a = 0; a < 4; a++) shared[lane * kChannels + head * kHeadDim + key + a] = sums[a];
    __syncthreads();
    if (threadIdx.x < kChannels && first_channel + static_cast<int>(threadIdx.x) < shape.channels) {
        const int of_head = first_head + static_cast<int>(threadIdx.x) / kHeadDim;
        float sum = 0;
        for (int other = 0; other < kLanes; other++) sum += shared[other * kChannels + threadIdx.x];
        states[state_at<kHeadDim>(shape, blockIdx.x, joint, of_head) + kHeadDim * kHeadDim + threadIdx.x % kHeadDim] = sum;
    }
}

/// Adds a clip's later chunks to its first, each element by one thread.
__global__ void __launch_bounds__(kThreads, 1)
    combine_kernel(int frames, int state_size, const int32_t *cu_seqlens, float *states) {
    const int clip = blockIdx.x, element = blockIdx.y * kThreads + threadIdx.x;
    if (element >= state_size) return;
    const Segment segment = segment_of(clip, cu_seqlens, frames);
    const int chunks = (segment.frames + kChunk - 1) / kChunk;
    if (chunks < 2) return;
    float *first = states + static_cast<size_t>(slot_of(segment, clip)) * state_size + element;
    float sum = *first;
#pragma unroll 8
    for (int chunk = 1; chunk < chunks; chunk++) sum += first[static_cast<size_t>(chunk) * state_size];
    *first = sum;
}

/// phi(q) U / (phi(q) Z + eps) of a chunk: a thread takes four channels of two frames at a time.
template <class Element, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    apply_kernel(star_cuda_shape shape, star_cuda_format format, float eps, const Element *qkv, const int32_t *cu_seqlens,
                 const float *states, Element *out) {
    constexpr int kHeads = kChannels / kHeadDim, kStateSize = (kHeadDim + 1) * kHeadDim, kFrames = kThreads / kQuads;
    static_assert(kStage == 2 * kFrames);
    __shared__ float state[kHeads * kStateSize];
    __shared__ float queries[kStage * kChannels];

    const Chunk chunk = chunk_of(blockIdx.x, cu_seqlens, shape);
    if (chunk.frames == 0) return;
    const int groups = (shape.channels + kChannels - 1) / kChannels;
    const int joint = blockIdx.y / groups, first_channel = static_cast<int>(blockIdx.y % groups) * kChannels;
    const int first_head = first_channel / kHeadDim, heads = min(kHeads, shape.heads - first_head);
    const float *from = states + state_at<kHeadDim>(shape, chunk.clip_slot, joint, first_head);
    for (int i = threadIdx.x; i < heads * kStateSize; i += kThreads) state[i] = from[i];

    const int channel = static_cast<int>(threadIdx.x) % kQuads * 4, own_frame = static_cast<int>(threadIdx.x) / kQuads;
    const int head = channel / kHeadDim;
    const bool is_channel = first_channel + channel < shape.channels;
    const float scale = scale_of<kHeadDim>();
    const auto row = [=](int frame) { return static_cast<size_t>(chunk.first_frame + frame) * shape.joints + joint; };
    for (int begin = 0; begin < chunk.frames; begin += kStage) {
        __syncthreads();  // the frames before are done
        for (int frame = own_frame; frame < kStage; frame += kFrames) {
            float4 q = make_float4(0, 0, 0, 0);
            if (is_channel && begin + frame < chunk.frames)
                q = phi(load(qkv + row(begin + frame) * (3 * shape.channels) + first_channel + channel, format.input_scale),
                        scale);
            *reinterpret_cast<float4 *>(queries + frame * kChannels + channel) = q;
        }
        __syncthreads();
        if (!is_channel) continue;
        const float *of_head = state + head * kStateSize, *query = queries + own_frame * kChannels + head * kHeadDim;
        float totals[2] = {eps, eps}, sums[2][4] = {};
#pragma unroll 8
        for (int a = 0; a < kHeadDim; a++) {
            const float4 u = *reinterpret_cast<const float4 *>(of_head + a * kHeadDim + channel % kHeadDim);
            const float z = of_head[kHeadDim * kHeadDim + a];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float q = query[i * kFrames * kChannels + a];
                totals[i] += q * z;
                sums[i][0] += q * u.x;
                sums[i][1] += q * u.y;
                sums[i][2] += q * u.z;
                sums[i][3] += q * u.w;
            }
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int frame = begin + own_frame + i * kFrames;
            if (frame < chunk.frames)
                store(out + row(frame) * shape.channels + first_channel + channel,
                      scaled(make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]), 1.0f / totals[i]),
                      format.output_scale);
        }
    }
}

int slots_of(const star_cuda_shape &shape) { return shape.frames / kChunk + shape.clips; }

int state_size(const star_cuda_shape &shape) { return shape.joints * shape.channels * (shape.channels / shape.heads + 1); }

template <class Element, int kHeadDim>
cudaError_t run(const star_cuda_shape &shape, const star_cuda_format &format, float eps, const Element *qkv,
                const int32_t *cu_seqlens, float *states, Element *out, cudaStream_t stream) {
    const int groups = (shape.channels + kChannels - 1) / kChannels, size = state_size(shape);
    const dim3 chunks(slots_of(shape), shape.joints * groups), clips(shape.clips, blocks_of(size, kThreads));
    cudaError_t error =
        launch(sum_kernel<Element, kHeadDim>, chunks, kThreads, 0, stream, shape, format, qkv, cu_seqlens, states);
    if (error == cudaSuccess)
        error = launch(combine_kernel, clips, kThreads, 0, stream, shape.frames, size, cu_seqlens, states);
    if (error == cudaSuccess)
        error = launch(apply_kernel<Element, kHeadDim>, chunks, kThreads, 0, stream, shape, format, eps, qkv, cu_seqlens,
                       states, out);
    return error;
}

/// Heads are 64 wide at most, so that state_size() is an int and a grid's second side small enough.
bool can_attend(const star_cuda_shape &shape) {
    return can_run(shape) && shape.channels <= 4096 && for_head_dim(shape, [](auto) { return cudaSuccess; }) == cudaSuccess;
}

}  // namespace

size_t star_cuda_segmented_linear_attention_workspace(const star_cuda_shape *shape) {
    if (shape == nullptr || !can_attend(*shape)) return 0;
    return static_cast<size_t>(slots_of(*shape)) * state_size(*shape) * sizeof(float);
}

cudaError_t star_cuda_segmented_linear_attention(const star_cuda_shape *shape, const star_cuda_format *format, float eps,
                                                 const void *qkv, const int32_t *cu_seqlens, void *workspace, void *out,
                                                 cudaStream_t stream) {
    if (shape == nullptr || format == nullptr || !can_attend(*shape) || !can_store(*format)) return cudaErrorInvalidValue;
    if (shape->frames == 0) return cudaSuccess;
    if (qkv == nullptr || cu_seqlens == nullptr || workspace == nullptr || out == nullptr) return cudaErrorInvalidValue;
    return for_head_dim(*shape, [&](auto head_dim) {
        return for_type(format->type, [&](auto element) {
            using Element = decltype(element);
            return run<Element, decltype(head_dim)::value>(*shape, *format, eps, static_cast<const Element *>(qkv), cu_seqlens,
                                                           static_cast<float *>(workspace), static_cast<Element *>(out),
                                                           stream);
        });
    });
}
