// STAR-64 in FP16: a layer is a kernel that sums keys (x) values over each clip, and one over tiles of frames. Keys and values
// are never in memory: x is half as large, and both kernels read that.
//
// A tile is as many frames of one clip as fit into the rows of a block, sixteen tokens a warp. In a matrix product a thread of
// a group of four holds sixteen neighbouring channels of two tokens, inputs and outputs alike, because the packed matrices are
// permuted so: a whole encoder behind its attention stays in registers. Only attention goes through shared memory.
#include <algorithm>
#include <type_traits>

#include "device.h"
#include "star_model.h"

namespace {

constexpr int kDim = STAR_CUDA_DIM, kHeads = STAR_CUDA_HEADS, kHeadDim = kDim / kHeads;
constexpr int kLayerRows = STAR_CUDA_LAYER_ROWS, kVectors = STAR_CUDA_LAYER_VECTORS;
constexpr int kWeightStride = kDim + 8;          // halves; rows in different banks
constexpr int kBlockStride = 8 * kWeightStride;  // of eight outputs
constexpr int kTileStride = 4 * kDim + 8;        // halves: q, k, v of the spatial branch and q of the temporal one, of a token
constexpr int kKeyValue = 2 * kDim;              // rows of their matrices
constexpr int kNextToken = 8 * kTileStride;      // from a thread's first token to its second
constexpr int kMostJoints = 64, kMostChannels = 16;
constexpr int kStateSize = kDim * kHeadDim;  // of a joint: [head][key][value]
constexpr int kReduceWarps = 16, kHeadWarps = 8, kStreams = 3;
constexpr float kNormEps = 1e-5f, kTemporalEps = 1e-6f, kLog2e = 1.44269504f;

// first rows of a layer's matrices
enum Matrix { kSpatialQkv = 0, kFirst = 192, kSecond = 256, kTemporalQuery = 320 };
constexpr int kBranchRows = 192, kBranchVectors = 6;  // from the spatial branch to the temporal one
enum EncoderVector { kNorm1Weight, kNorm1Bias, kBias1, kBias2, kNorm2Weight, kNorm2Bias };

/// Consecutive frames of a clip; none where a slot has no tile.
struct Tile {
    int first_frame, frames, clip, clip_frame;
};

__device__ float sigmoid(float x) { return reciprocal(1.0f + power_of_2(-kLog2e * x)); }
__device__ float silu(float x) { return x * sigmoid(x); }
__device__ float phi(float x) { return x > 0.0f ? x + 1.0f : power_of_2(kLog2e * x); }

__device__ uint32_t pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&pair);
}

__device__ float2 unpack(uint32_t pair) { return __half22float2(*reinterpret_cast<const __half2 *>(&pair)); }

/// Sixteen channels of two tokens, eight apart: what a thread holds. h[token][pair of channels].
struct Rows {
    uint32_t h[2][8];

    __device__ void load(const __half *first, const __half *second) {
        const auto *from0 = reinterpret_cast<const uint4 *>(first), *from1 = reinterpret_cast<const uint4 *>(second);
        const uint4 values[4] = {from0[0], from0[1], from1[0], from1[1]};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            h[i / 2][i % 2 * 4] = values[i].x;
            h[i / 2][i % 2 * 4 + 1] = values[i].y;
            h[i / 2][i % 2 * 4 + 2] = values[i].z;
            h[i / 2][i % 2 * 4 + 3] = values[i].w;
        }
    }

    __device__ void store(int token, __half *to) const {
        auto *out = reinterpret_cast<uint4 *>(to);
        out[0] = make_uint4(h[token][0], h[token][1], h[token][2], h[token][3]);
        out[1] = make_uint4(h[token][4], h[token][5], h[token][6], h[token][7]);
    }
};

/// The same channels of the same tokens in float32: c[pair of channels][2 * token + channel], as mma leaves them.
struct Sums {
    float c[8][4];

    __device__ void fill(const float *channels) {
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const float2 pair = reinterpret_cast<const float2 *>(channels)[n];
            c[n][0] = c[n][2] = pair.x;
            c[n][1] = c[n][3] = pair.y;
        }
    }

    __device__ void add(const Rows &rows) {
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const float2 first = unpack(rows.h[0][n]), second = unpack(rows.h[1][n]);
            c[n][0] += first.x;
            c[n][1] += first.y;
            c[n][2] += second.x;
            c[n][3] += second.y;
        }
    }

    template <class Function>
    __device__ void apply(const Function &function) {
#pragma unroll
        for (int n = 0; n < 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) c[n][i] = function(c[n][i]);
        }
    }

    __device__ Rows rounded() const {
        Rows rows;
#pragma unroll
        for (int n = 0; n < 8; n++) {
            rows.h[0][n] = pack(c[n][0], c[n][1]);
            rows.h[1][n] = pack(c[n][2], c[n][3]);
        }
        return rows;
    }

    /// LayerNorm over the 64 channels of each token, which four threads hold.
    __device__ void normalise(const float *weight, const float *bias) {
#pragma unroll
        for (int token = 0; token < 2; token++) {
            float sum = 0;
#pragma unroll
            for (int n = 0; n < 8; n++) sum += c[n][2 * token] + c[n][2 * token + 1];
            const float mean = over_four(sum) * (1.0f / kDim);
            float squares = 0;
#pragma unroll
            for (int n = 0; n < 8; n++) {
#pragma unroll
                for (int i = 2 * token; i < 2 * token + 2; i++) {
                    c[n][i] -= mean;
                    squares += c[n][i] * c[n][i];
                }
            }
            const float inverse = rsqrtf(over_four(squares) * (1.0f / kDim) + kNormEps);
#pragma unroll
            for (int n = 0; n < 8; n++) {
                const float2 gain = reinterpret_cast<const float2 *>(weight)[n];
                const float2 shift = reinterpret_cast<const float2 *>(bias)[n];
                c[n][2 * token] = c[n][2 * token] * inverse * gain.x + shift.x;
                c[n][2 * token + 1] = c[n][2 * token + 1] * inverse * gain.y + shift.y;
            }
        }
    }

   private:
    static __device__ float over_four(float value) {
        value += __shfl_xor_sync(0xffffffff, value, 1);
        return value + __shfl_xor_sync(0xffffffff, value, 2);
    }
};

/// sums += rows times kBlocks times eight rows of a packed matrix in shared memory: channels of two tokens, as in Sums.
template <int kBlocks>
__device__ void multiply_blocks(const Rows &rows, const __half *matrix, float (*sums)[4]) {
    const int lane = threadIdx.x % 32;
    const __half *row = matrix + lane % 8 * kWeightStride + lane / 8 * 8;
#pragma unroll
    for (int half = 0; half < 2; half++) {  // of the inputs
        uint32_t b[kBlocks][4];
#pragma unroll
        for (int n = 0; n < kBlocks; n++) load_matrices(b[n], row + n * kBlockStride + half * 32);
#pragma unroll
        for (int step = 0; step < 2; step++) {
            const int s = half * 2 + step;
#pragma unroll
            for (int n = 0; n < kBlocks; n++)
                multiply_add(sums[n], rows.h[0][2 * s], rows.h[1][2 * s], rows.h[0][2 * s + 1], rows.h[1][2 * s + 1],
                             b[n][2 * step], b[n][2 * step + 1]);
        }
    }
}

/// sums += rows times 64 rows of a packed matrix. Four blocks of outputs at a time: an instruction waits for none of the three
/// before it.
__device__ void multiply(const Rows &rows, const __half *matrix, Sums &sums) {
    multiply_blocks<4>(rows, matrix, sums.c);
    multiply_blocks<4>(rows, matrix + 4 * kBlockStride, sums.c + 4);
}

__device__ Sums project(const Rows &rows, const __half *matrix) {
    Sums sums{};
    multiply(rows, matrix, sums);
    return sums;
}

/// An encoder behind its attention: x1 = LN(attended + x), LN(x1 + linear2(SiLU(linear1(x1)))); `vectors` begin at the
/// thread's channels.
__device__ Sums encoder_tail(const Rows &attended, const Rows &x, const __half *first, const __half *second,
                             const float *vectors) {
    const auto vector = [=](int which) { return vectors + which * kDim; };
    Sums sums{};
    sums.add(attended);
    sums.add(x);
    sums.normalise(vector(kNorm1Weight), vector(kNorm1Bias));
    const Rows residual = sums.rounded();
    sums.fill(vector(kBias1));
    multiply(residual, first, sums);
    sums.apply([](float value) { return silu(value); });
    const Rows hidden = sums.rounded();
    sums.fill(vector(kBias2));
    sums.add(residual);
    multiply(hidden, second, sums);
    sums.normalise(vector(kNorm2Weight), vector(kNorm2Bias));
    return sums;
}

__device__ void to_floats(const __half *from, float (&values)[kHeadDim]) {
    const uint4 halves = *reinterpret_cast<const uint4 *>(from);
    const uint32_t pairs[4] = {halves.x, halves.y, halves.z, halves.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 pair = unpack(pairs[i]);
        values[2 * i] = pair.x;
        values[2 * i + 1] = pair.y;
    }
}

__device__ void to_halves(const float (&values)[kHeadDim], float factor, __half *to) {
    *reinterpret_cast<uint4 *>(to) =
        make_uint4(pack(values[0] * factor, values[1] * factor), pack(values[2] * factor, values[3] * factor),
                   pack(values[4] * factor, values[5] * factor), pack(values[6] * factor, values[7] * factor));
}

/// StarSparseAttention on the tile's q, k, v, in place of q: a thread a token and head. Queries hold log2(e) / sqrt(head_dim).
/// Edges come four at a time, so that their scores do not wait for each other.
__device__ void sparse_attention(__half *tile, int tokens, int joints, const int *starts, const uint8_t *ends) {
    constexpr int kEdges = 4;
    for (int item = threadIdx.x; item < tokens * kHeads; item += blockDim.x) {
        const int token = item / kHeads, head = item % kHeads, joint = token % joints;
        __half *own = tile + token * kTileStride + head * kHeadDim;
        const __half *frame = tile + (token - joint) * kTileStride + head * kHeadDim;
        const int begin = starts[joint], end = starts[joint + 1];
        float query[kHeadDim], sums[kHeadDim] = {}, largest = -1e30f, total = 0;
        to_floats(own, query);
        for (int edge = begin; edge < end; edge += kEdges) {
            const __half *others[kEdges];
            float scores[kEdges], maximum = largest;
#pragma unroll
            for (int i = 0; i < kEdges; i++) {
                others[i] = frame + ends[min(edge + i, end - 1)] * kTileStride;
                float key[kHeadDim];
                to_floats(others[i] + kDim, key);
                scores[i] = 0;
#pragma unroll
                for (int c = 0; c < kHeadDim; c++) scores[i] += query[c] * key[c];
                if (edge + i >= end) scores[i] = -1e30f;
                maximum = fmaxf(maximum, scores[i]);
            }
            const float correction = power_of_2(largest - maximum);
            largest = maximum;
            total *= correction;
#pragma unroll
            for (int c = 0; c < kHeadDim; c++) sums[c] *= correction;
#pragma unroll
            for (int i = 0; i < kEdges; i++) {
                const float weight = power_of_2(scores[i] - maximum);
                float value[kHeadDim];
                to_floats(others[i] + 2 * kDim, value);
                total += weight;
#pragma unroll
                for (int c = 0; c < kHeadDim; c++) sums[c] += weight * value[c];
            }
        }
        to_halves(sums, total > 0 ? reciprocal(total) : 0.0f, own);
    }
}

/// StarSegmentedLinearAttention of the tile's phi(q), in place: a thread a joint, head and half of its channels, with the
/// clip's state.
__device__ void linear_attention(__half *tile, int frames, int joints, const float *products, const float *key_sums) {
    constexpr int kHalf = kHeadDim / 2;
    static_assert(kHalf == 4);
    for (int item = threadIdx.x; item < joints * kHeads * 2; item += blockDim.x) {
        const int half = item % 2, joint = item / 2 / kHeads, head = item / 2 % kHeads;
        const auto *rows = reinterpret_cast<const float4 *>(products + item / 2 * kHeadDim * kHeadDim) + half;
        float4 state[kHeadDim];
        float sums_of_keys[kHeadDim];
#pragma unroll
        for (int a = 0; a < kHeadDim; a++) {
            state[a] = rows[2 * a];
            sums_of_keys[a] = key_sums[item / 2 * kHeadDim + a];
        }
        for (int frame = 0; frame < frames; frame++) {
            __half *own = tile + (frame * joints + joint) * kTileStride + head * kHeadDim;
            float query[kHeadDim], total = kTemporalEps;
            float4 sums{};
            to_floats(own, query);
            __syncwarp(3u << (threadIdx.x % 32 / 2 * 2));  // the other half's thread has read it, too
#pragma unroll
            for (int a = 0; a < kHeadDim; a++) {
                total += query[a] * sums_of_keys[a];
                sums.x += query[a] * state[a].x;
                sums.y += query[a] * state[a].y;
                sums.z += query[a] * state[a].z;
                sums.w += query[a] * state[a].w;
            }
            const float inverse = reciprocal(total);
            *reinterpret_cast<uint2 *>(own + half * kHalf) =
                make_uint2(pack(sums.x * inverse, sums.y * inverse), pack(sums.z * inverse, sums.w * inverse));
        }
    }
}

/// Begins to copy rows of 64 into shared memory; await_copies() ends it.
__device__ void copy_matrices(const __half *from, int rows, __half *to) {
    for (int i = threadIdx.x; i < rows * (kDim / 8); i += blockDim.x) {
        __half *out = to + i / (kDim / 8) * kWeightStride + i % (kDim / 8) * 8;
        copy_16_bytes(out, from + i * 8);
    }
}

/// What a run has in its workspace.
struct Buffers {
    Tile *tiles;
    __half *x;        // [frames, V, 64]
    float *products;  // [clips, V, heads, 8, 8]
    float *key_sums;  // [clips, V, 64]
    float *pooled;    // [clips, V, 64]
    float *hidden;    // [clips, hidden]
};

/// Which frames each slot's tile has: tile k of a clip has slot cu_seqlens / frames of a tile + clip + k, which no other has.
__global__ void plan_tiles(const int32_t *cu_seqlens, int clips, int tile_frames, int slots, Tile *tiles) {
    const int slot = blockIdx.x * blockDim.x + threadIdx.x;
    if (slot >= slots) return;
    int low = 0, high = clips - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (cu_seqlens[middle] / tile_frames + middle <= slot) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    const int first = (slot - cu_seqlens[low] / tile_frames - low) * tile_frames,
              frames = cu_seqlens[low + 1] - cu_seqlens[low];
    tiles[slot] = {cu_seqlens[low] + first, min(max(frames - first, 0), tile_frames), low, first};
}

template <int kWarps>
__global__ void __launch_bounds__(kWarps * 32, 1)
    layer_kernel(star_cuda_sizes sizes, star_cuda_weights weights, int layer, int slots, Buffers buffers) {
    STAR_DYNAMIC_SHARED(memory);
    auto *matrices = reinterpret_cast<__half *>(memory);
    auto *tile_rows = matrices + kLayerRows * kWeightStride;
    auto *vectors = reinterpret_cast<float *>(tile_rows + kWarps * 16 * kTileStride);
    auto *edge_starts = reinterpret_cast<int *>(vectors + kVectors * kDim);
    auto *edge_ends = reinterpret_cast<uint8_t *>(edge_starts + kMostJoints + 1);
    const int joints = sizes.joints;

    copy_matrices(static_cast<const __half *>(weights.matrices) + static_cast<size_t>(layer) * kLayerRows * kDim, kLayerRows,
                  matrices);
    for (int i = threadIdx.x; i < kVectors * kDim; i += blockDim.x) vectors[i] = weights.vectors[layer * kVectors * kDim + i];
    for (int i = threadIdx.x; i <= joints; i += blockDim.x) edge_starts[i] = weights.edge_starts[i];
    for (int i = threadIdx.x; i < sizes.edges; i += blockDim.x) edge_ends[i] = static_cast<uint8_t>(weights.edge_ends[i]);

    const int lane = threadIdx.x % 32, channel = lane % 4 * 16;
    const int token = static_cast<int>(threadIdx.x / 32 * 16 + lane / 4);  // and the one eight further
    __half *own = tile_rows + token * kTileStride + channel;
    const auto matrix = [=](int row) { return matrices + row * kWeightStride; };

    for (int slot = blockIdx.x; slot < slots; slot += gridDim.x) {
        const Tile tile = buffers.tiles[slot];
        if (tile.frames == 0) continue;
        const int tokens = tile.frames * joints;
        __half *x_tile = buffers.x + static_cast<size_t>(tile.first_frame) * joints * kDim + channel;
        Rows x;
        const auto load_x = [&] {
            x.load(x_tile + min(token, tokens - 1) * kDim, x_tile + min(token + 8, tokens - 1) * kDim);
        };
        load_x();
        await_copies();
        __syncthreads();  // matrices are there; the tile before is done
#pragma unroll 1
        for (int part = 0; part < 3; part++) {
            const Rows rows = project(x, matrix(kSpatialQkv + part * kDim)).rounded();
            rows.store(0, own + part * kDim);
            rows.store(1, own + kNextToken + part * kDim);
        }
        Sums query = project(x, matrix(kTemporalQuery));
        query.apply([](float value) { return phi(value); });
        const Rows queries = query.rounded();
        queries.store(0, own + 3 * kDim);
        queries.store(1, own + kNextToken + 3 * kDim);
        __syncthreads();
        linear_attention(tile_rows + 3 * kDim, tile.frames, joints,
                         buffers.products + static_cast<size_t>(tile.clip) * joints * kStateSize,
                         buffers.key_sums + static_cast<size_t>(tile.clip) * joints * kDim);
        sparse_attention(tile_rows, tokens, joints, edge_starts, edge_ends);
        __syncthreads();
        // a loop keeps what the branches read apart: together they want more registers than there are
#pragma unroll 1
        for (int branch = 0; branch < 2; branch++) {
            const __half *attention = own + branch * 3 * kDim;
            Rows attended;
            attended.load(attention, attention + kNextToken);
            load_x();  // anew: attention wants the registers
            Sums sums =
                encoder_tail(attended, x, matrix(kFirst + branch * kBranchRows), matrix(kSecond + branch * kBranchRows),
                             vectors + branch * kBranchVectors * kDim + channel);
            if (branch == 1) {
                Rows spatial;
                spatial.load(own + kDim, own + kNextToken + kDim);
                sums.add(spatial);
            }
            const Rows result = sums.rounded();
            __half *to = branch == 0 ? own + kDim : x_tile + token * kDim;  // first where the keys were
            const int second = branch == 0 ? kNextToken : 8 * kDim;
            if (branch == 0 || token < tokens) result.store(0, to);
            if (branch == 0 || token + 8 < tokens) result.store(1, to + second);
        }
    }
}

/// x = embedding of features + positions.
template <int kWarps>
__global__ void __launch_bounds__(kWarps * 32)
    embed_kernel(star_cuda_sizes sizes, star_cuda_weights weights, const float *features, int slots, Buffers buffers) {
    STAR_DYNAMIC_SHARED(memory);
    auto *embedding = reinterpret_cast<float *>(memory);      // [C, 64], then the bias
    float *inputs = embedding + (sizes.channels + 1) * kDim;  // [token, C], normalised
    const int joints = sizes.joints, channels = sizes.channels;
    for (int i = threadIdx.x; i < channels * kDim; i += blockDim.x) embedding[i] = weights.embedding[i];
    for (int i = threadIdx.x; i < kDim; i += blockDim.x) embedding[channels * kDim + i] = weights.embedding_bias[i];

    const int lane = threadIdx.x % 32, channel = lane % 4 * 16;
    const int token = static_cast<int>(threadIdx.x / 32 * 16 + lane / 4);
    for (int slot = blockIdx.x; slot < slots; slot += gridDim.x) {
        const Tile tile = buffers.tiles[slot];
        if (tile.frames == 0) continue;
        const int tokens = tile.frames * joints;
        const float *from = features + static_cast<size_t>(tile.first_frame) * joints * channels;
        __syncthreads();  // the tile before is done
        for (int i = threadIdx.x; i < tokens * channels; i += blockDim.x) {
            const int input = i % (joints * channels);
            inputs[i] = from[i] * weights.input_scale[input] + weights.input_shift[input];
        }
        __syncthreads();
        Sums sums;
        sums.fill(embedding + channels * kDim + channel);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int at = min(token + 8 * i, tokens - 1);
            for (int c = 0; c < channels; c++) {
                const float value = inputs[at * channels + c];
#pragma unroll
                for (int n = 0; n < 8; n++) {
                    const float2 column = reinterpret_cast<const float2 *>(embedding + c * kDim + channel)[n];
                    sums.c[n][2 * i] += value * column.x;
                    sums.c[n][2 * i + 1] += value * column.y;
                }
            }
            // sin for even channels, cos for odd ones, of (p / 10^4)^(j / 64), with 0^0 = 1
            const float log_position = log2f(static_cast<float>(tile.clip_frame + at / joints) * 1e-4f);
#pragma unroll
            for (int n = 0; n < 8; n++) {
                const int j = channel + 2 * n;
                const float even = j == 0 ? 1.0f : exp2f(log_position * static_cast<float>(j) / kDim);
                const float odd = exp2f(log_position * static_cast<float>(j + 1) / kDim);
                sums.c[n][2 * i] += __sinf(even);
                sums.c[n][2 * i + 1] += __cosf(odd);
            }
        }
        const Rows x = sums.rounded();
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (token + 8 * i < tokens)
                x.store(i, buffers.x + (static_cast<size_t>(tile.first_frame) * joints + token + 8 * i) * kDim + channel);
        }
    }
}

/// Sum over the warps of a block, in their order: value of each thread's lane and slot, `count` a lane.
template <int kCount>
__device__ void sum_over_warps(float (&values)[kCount], float *shared) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < kCount; i++) shared[(warp * kCount + i) * 32 + lane] = values[i];
    __syncthreads();
}

/// What a thread adds up of one head and joint: keys' products with values, and keys, of the tokens that it has.
struct State {
    float sums[kHeadDim][kHeadDim + 1];  // [key][value], then the key itself

    /// Adds both tokens of a thread: a pair of keys and a head's values, as multiply_blocks() leaves them.
    __device__ void add(const float (&keys)[4], int pair, const float (&values)[4][4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float (&row)[kHeadDim + 1] = sums[2 * pair + i % 2];
#pragma unroll
            for (int b = 0; b < kHeadDim; b++) row[b] += keys[i] * values[b / 2][i / 2 * 2 + b % 2];
            row[kHeadDim] += keys[i];
        }
    }

    /// Sums over the eight lanes of a head, in a fixed order: a lane is left with the key of its number among them, in row 0.
    __device__ void add_up() {
        keep_half<4, 16>();
        keep_half<2, 8>();
        keep_half<1, 4>();
    }

   private:
    /// Gives a neighbour half of the rows and takes its part of the others.
    template <int kRows, int kLane>
    __device__ void keep_half() {
        const bool upper = (threadIdx.x & kLane) != 0;
#pragma unroll
        for (int row = 0; row < kRows; row++) {
#pragma unroll
            for (int i = 0; i <= kHeadDim; i++) {
                const float low = sums[row][i], high = sums[row + kRows][i];
                sums[row][i] = (upper ? high : low) + __shfl_xor_sync(0xffffffff, upper ? low : high, kLane);
            }
        }
    }
};

/// Products of keys and values, and sums of keys, of one joint of a clip. A warp has half of the heads, those of even or odd
/// number, and takes sixteen frames in turn with the others of its half, which are added up in order.
__global__ void __launch_bounds__(2 * kStreams * 32, 2)
    state_kernel(star_cuda_sizes sizes, const __half *key_values, const int32_t *cu_seqlens, Buffers buffers) {
    __shared__ uint4 memory[kKeyValue * kWeightStride / 8];
    __shared__ float shared[kStreams - 1][2][kHeadDim + 1][32];
    auto *matrices = reinterpret_cast<__half *>(memory);
    const int joint = blockIdx.x, clip = blockIdx.y, joints = sizes.joints;
    const int lane = threadIdx.x % 32, side = threadIdx.x / 32 % 2, stream = threadIdx.x / 64;
    const int frames = cu_seqlens[clip + 1] - cu_seqlens[clip];
    copy_matrices(key_values, kKeyValue, matrices);
    await_copies();
    __syncthreads();

    const __half *x = buffers.x + (static_cast<size_t>(cu_seqlens[clip]) * joints + joint) * kDim + lane % 4 * 16;
    const auto at = [=](int frame) { return x + static_cast<size_t>(min(frame, frames - 1)) * joints * kDim; };
    const __half *matrix = matrices + side * 4 * kBlockStride;
    State state{};
    for (int first = stream * 16; first < frames; first += kStreams * 16) {
        const int frame = first + lane / 4;  // and the one eight further
        Rows rows;
        rows.load(at(frame), at(frame + 8));
        float values[4][4] = {};
        multiply_blocks<4>(rows, matrix + kDim * kWeightStride, values);
#pragma unroll
        for (int half = 0; half < 2; half++) {  // all keys at once want more registers than there are
            float keys[2][4] = {};
            multiply_blocks<2>(rows, matrix + half * 2 * kBlockStride, keys);
#pragma unroll
            for (int n = 0; n < 2; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) keys[n][i] = frame + i / 2 * 8 < frames ? phi(keys[n][i]) : 0.0f;
                state.add(keys[n], 2 * half + n, values);
            }
        }
    }
    state.add_up();
    if (stream > 0) {
#pragma unroll
        for (int i = 0; i <= kHeadDim; i++) shared[stream - 1][side][i][lane] = state.sums[0][i];
    }
    __syncthreads();
    if (stream > 0) return;
#pragma unroll
    for (int i = 0; i <= kHeadDim; i++) {
        for (int other = 0; other < kStreams - 1; other++) state.sums[0][i] += shared[other][side][i][lane];
    }
    const size_t key = (static_cast<size_t>(clip) * joints + joint) * kDim + (lane % 4 * 2 + side) * kHeadDim + lane / 4;
    auto *products = reinterpret_cast<float4 *>(buffers.products + key * kHeadDim);
    products[0] = make_float4(state.sums[0][0], state.sums[0][1], state.sums[0][2], state.sums[0][3]);
    products[1] = make_float4(state.sums[0][4], state.sums[0][5], state.sums[0][6], state.sums[0][7]);
    buffers.key_sums[key] = state.sums[0][kHeadDim];
}

/// StarContextAttention of one joint of a clip, over its number of frames: mean, context = tanh(mean W), mean of sigmoid(x .
/// context) x.
__global__ void __launch_bounds__(kReduceWarps * 32)
    pool_kernel(star_cuda_sizes sizes, const int32_t *cu_seqlens, const float *weight, Buffers buffers) {
    __shared__ float shared[kReduceWarps * 2 * 32];
    __shared__ float mean[kDim], context[kDim];
    const int joint = blockIdx.x, clip = blockIdx.y, joints = sizes.joints;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int begin = cu_seqlens[clip], end = cu_seqlens[clip + 1];
    const float inverse = 1.0f / static_cast<float>(max(end - begin, 1));
    const auto at = [&](int frame) {
        const __half *row = buffers.x + (static_cast<size_t>(frame) * joints + joint) * kDim;
        return unpack(*reinterpret_cast<const uint32_t *>(row + 2 * lane));
    };
    const auto sum_of = [&](int channel) {
        float sum = 0;
        for (int other = 0; other < kReduceWarps; other++) sum += shared[(other * 2 + channel % 2) * 32 + channel / 2];
        return sum;
    };

    float sums[2] = {};
#pragma unroll 8
    for (int frame = begin + warp; frame < end; frame += kReduceWarps) {
        const float2 x = at(frame);
        sums[0] += x.x;
        sums[1] += x.y;
    }
    sum_over_warps(sums, shared);
    if (threadIdx.x < kDim) mean[threadIdx.x] = sum_of(threadIdx.x) * inverse;
    __syncthreads();
    if (threadIdx.x < kDim) {
        float sum = 0;
        for (int k = 0; k < kDim; k++) sum += mean[k] * weight[k * kDim + threadIdx.x];
        context[threadIdx.x] = tanhf(sum);
    }
    __syncthreads();
    const float2 own = {context[2 * lane], context[2 * lane + 1]};
    sums[0] = sums[1] = 0;
    for (int frame = begin + warp; frame < end; frame += kReduceWarps) {
        const float2 x = at(frame);
        float score = x.x * own.x + x.y * own.y;
#pragma unroll
        for (int other = 16; other > 0; other /= 2) score += __shfl_xor_sync(0xffffffff, score, other);
        const float gate = sigmoid(score);
        sums[0] += gate * x.x;
        sums[1] += gate * x.y;
    }
    sum_over_warps(sums, shared);
    if (threadIdx.x < kDim)
        buffers.pooled[(static_cast<size_t>(clip) * joints + joint) * kDim + threadIdx.x] = sum_of(threadIdx.x) * inverse;
}

/// One output of a linear layer a warp: out [clips, outputs] of in [clips, inputs], inputs an even number.
template <bool kSilu>
__global__ void __launch_bounds__(kHeadWarps * 32)
    head_kernel(const __half *weight, const float *bias, int inputs, int outputs, const float *in, float *out) {
    const int output = blockIdx.x * kHeadWarps + threadIdx.x / 32, clip = blockIdx.y, lane = threadIdx.x % 32;
    if (output >= outputs) return;
    const auto *row = reinterpret_cast<const uint32_t *>(weight + static_cast<size_t>(output) * inputs);
    const auto *x = reinterpret_cast<const float2 *>(in + static_cast<size_t>(clip) * inputs);
    float sum = 0;
#pragma unroll 4
    for (int i = lane; i < inputs / 2; i += 32) {
        const float2 w = unpack(row[i]), value = x[i];
        sum += w.x * value.x + w.y * value.y;
    }
#pragma unroll
    for (int other = 16; other > 0; other /= 2) sum += __shfl_xor_sync(0xffffffff, sum, other);
    if (lane == 0) out[static_cast<size_t>(clip) * outputs + output] = kSilu ? silu(sum + bias[output]) : sum + bias[output];
}

template <int kWarps>
size_t layer_memory(int edges) {
    return (kLayerRows * kWeightStride + kWarps * 16 * kTileStride) * sizeof(__half) + kVectors * kDim * sizeof(float) +
           (kMostJoints + 1) * sizeof(int) + static_cast<size_t>(edges);
}

size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

constexpr int kLeastWarps = 8;

int tile_frames(const star_cuda_sizes &sizes, int warps) { return warps * 16 / sizes.joints; }

int slots_of(const star_cuda_sizes &sizes, int frames) { return sizes.frames / frames + sizes.clips; }

/// Parts of the workspace; returns their bytes.
size_t place(const star_cuda_sizes &sizes, void *workspace, Buffers &buffers) {
    size_t used = 0;
    const auto take = [&](auto *&part, size_t count) {
        part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(static_cast<char *>(workspace) + used);
        used += round_up(count * sizeof(*part));
    };
    const size_t rows = static_cast<size_t>(sizes.frames) * sizes.joints,
                 clip_rows = static_cast<size_t>(sizes.clips) * sizes.joints;
    take(buffers.tiles, static_cast<size_t>(slots_of(sizes, tile_frames(sizes, kLeastWarps))));
    take(buffers.x, rows * kDim);
    take(buffers.products, clip_rows * kStateSize);
    take(buffers.key_sums, clip_rows * kDim);
    take(buffers.pooled, clip_rows * kDim);
    take(buffers.hidden, static_cast<size_t>(sizes.clips) * sizes.hidden);
    return used;
}

bool can_run(const star_cuda_sizes &sizes) {
    return sizes.joints >= 1 && sizes.joints <= kMostJoints && sizes.channels >= 1 && sizes.channels <= kMostChannels &&
           sizes.classes >= 1 && sizes.layers >= 1 && sizes.hidden >= 2 && sizes.hidden % 2 == 0 && sizes.edges >= 0 &&
           sizes.edges <= kMostJoints * kMostJoints && sizes.frames >= 1 && sizes.clips >= 1 && sizes.clips <= 65535;
}

struct Device {
    int processors = 0, shared_memory = 0;
};

cudaError_t describe(Device &device) {
    int id = 0;
    cudaError_t error = cudaGetDevice(&id);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&device.processors, cudaDevAttrMultiProcessorCount, id);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&device.shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, id);
    return error;
}

bool fits(const star_cuda_sizes &sizes, const Device &device) {
    return static_cast<size_t>(device.shared_memory) >= layer_memory<kLeastWarps>(sizes.edges);
}

/// Large tiles load a layer's matrices less often; small ones keep every processor busy.
int tile_rows_for(const star_cuda_sizes &sizes, const Device &device) {
    const bool fits = static_cast<size_t>(device.shared_memory) >= layer_memory<16>(sizes.edges);
    return fits && slots_of(sizes, tile_frames(sizes, 16)) >= device.processors ? 256 : 128;
}

template <int kWarps>
cudaError_t run(const star_cuda_sizes &sizes, const star_cuda_weights &weights, const float *features,
                const int32_t *cu_seqlens, const Buffers &buffers, float *logits, int processors, cudaStream_t stream) {
    constexpr int kThreads = kWarps * 32, kReduceThreads = kReduceWarps * 32, kHeadThreads = kHeadWarps * 32;
    const int frames = tile_frames(sizes, kWarps), slots = slots_of(sizes, frames), blocks = std::min(slots, processors);
    const dim3 joints_of_clips(sizes.joints, sizes.clips);
    const size_t embed_memory = ((sizes.channels + 1) * kDim + kWarps * 16 * sizes.channels) * sizeof(float);
    const auto head_grid = [&](int outputs) { return dim3((outputs + kHeadWarps - 1) / kHeadWarps, sizes.clips); };
    cudaError_t error = cudaSuccess;
    const auto then = [&](auto kernel, dim3 grid, unsigned threads, size_t shared_bytes, const auto &...arguments) {
        if (error == cudaSuccess) error = launch(kernel, grid, threads, shared_bytes, stream, arguments...);
    };
    then(plan_tiles, dim3((slots + 255) / 256), 256, 0, cu_seqlens, sizes.clips, frames, slots, buffers.tiles);
    then(embed_kernel<kWarps>, dim3(std::min(slots, 4 * processors)), kThreads, embed_memory, sizes, weights, features, slots,
         buffers);
    for (int layer = 0; layer < sizes.layers; layer++) {
        const __half *key_values = static_cast<const __half *>(weights.key_values) + layer * kKeyValue * kDim;
        then(state_kernel, joints_of_clips, 2 * kStreams * 32, 0, sizes, key_values, cu_seqlens, buffers);
        then(layer_kernel<kWarps>, dim3(blocks), kThreads, layer_memory<kWarps>(sizes.edges), sizes, weights, layer, slots,
             buffers);
    }
    then(pool_kernel, joints_of_clips, kReduceThreads, 0, sizes, cu_seqlens, weights.context, buffers);
    then(head_kernel<true>, head_grid(sizes.hidden), kHeadThreads, 0, static_cast<const __half *>(weights.head_hidden),
         weights.head_hidden_bias, sizes.joints * kDim, sizes.hidden, buffers.pooled, buffers.hidden);
    then(head_kernel<false>, head_grid(sizes.classes), kHeadThreads, 0, static_cast<const __half *>(weights.head_output),
         weights.head_output_bias, sizes.hidden, sizes.classes, buffers.hidden, logits);
    return error;
}

}  // namespace

size_t star_cuda_workspace(const star_cuda_sizes *sizes) {
    Buffers buffers;
    Device device;
    const bool can = sizes != nullptr && can_run(*sizes) && describe(device) == cudaSuccess && fits(*sizes, device);
    return can ? place(*sizes, nullptr, buffers) : 0;
}

cudaError_t star_cuda_run(const star_cuda_sizes *sizes, const star_cuda_weights *weights, const float *features,
                          const int32_t *cu_seqlens, void *workspace, float *logits, cudaStream_t stream) {
    if (sizes == nullptr || weights == nullptr || features == nullptr || cu_seqlens == nullptr || workspace == nullptr ||
        logits == nullptr || !can_run(*sizes))
        return cudaErrorInvalidValue;
    Device device;
    if (const cudaError_t error = describe(device); error != cudaSuccess) return error;
    Buffers buffers;
    place(*sizes, workspace, buffers);
    const auto run_with = [&](auto warps) {
        return run<warps()>(*sizes, *weights, features, cu_seqlens, buffers, logits, device.processors, stream);
    };
    switch (sizes->tile_rows != 0 ? sizes->tile_rows : tile_rows_for(*sizes, device)) {
        case 128:
            return run_with(std::integral_constant<int, 8>());
        case 256:
            return run_with(std::integral_constant<int, 16>());
        default:
            return cudaErrorInvalidValue;
    }
}
