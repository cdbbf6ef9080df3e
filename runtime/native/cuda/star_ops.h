/**
 * @file star_ops.h
 * @brief The four `Star*` ops on an NVIDIA GPU, one entry point each: what the TensorRT plugins call.
 *
 * Plain entry points: no allocation, no synchronisation, grids from static bounds alone, so that a call can be captured in a
 * CUDA graph. Tensors, `cu_seqlens` and the workspace are device memory, 16-byte aligned; shapes, formats and neighbours are
 * read on the host, before the call returns. Sums and everything between input and output are float32.
 *
 * `cu_seqlens` [clips + 1] is read on the device and unchecked there: it must begin with 0, not descend, and end at `frames`
 * at most. Tensors may have room for more frames than its last value: rows behind it are neither read nor written. Clips may
 * be empty. A clip's result is the same bits in every run, in any batch and in tensors of any capacity.
 *
 * Every call returns what its launches returned; cudaErrorInvalidValue, with nothing launched, for what it cannot run.
 */
#ifndef STAR_EDGE_STAR_OPS_H
#define STAR_EDGE_STAR_OPS_H

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#ifndef STAR_CUDA_API
#define STAR_CUDA_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** Most joints of a skeleton. */
#define STAR_CUDA_MOST_JOINTS 64
/** Most channels of the context attention. */
#define STAR_CUDA_MOST_POOLED 1024

/** Element type of an op's tensors, inputs and outputs alike. */
typedef enum star_cuda_type { STAR_CUDA_FP32 = 0, STAR_CUDA_FP16 = 1, STAR_CUDA_INT8 = 2 } star_cuda_type;

/** How elements are stored. int8 is symmetric: value = level * scale, level = clamp(round half to even(value / scale), -127,
 * 127). The scales of other types are ignored. */
typedef struct star_cuda_format {
    star_cuda_type type;
    float input_scale, output_scale;
} star_cuda_format;

typedef struct star_cuda_shape {
    int32_t frames;   /**< F that tensors have room for. */
    int32_t clips;    /**< B; cu_seqlens has B + 1 entries. Ignored by the sparse attention. */
    int32_t joints;   /**< V, at most STAR_CUDA_MOST_JOINTS. */
    int32_t channels; /**< C, a multiple of 4. */
    int32_t heads;    /**< Of the two attentions: C / heads is 4, 8, 16, 32 or 64. Others ignore it. */
} star_cuda_shape;

/**
 * StarSegmentedPositions: out = x + sin or cos of (p / 10^4)^(j / C) for even and odd channels j, p restarting in each clip.
 * @param x, out [F, V, C] of the format; may be the same memory.
 */
STAR_CUDA_API cudaError_t star_cuda_segmented_positions(const star_cuda_shape *shape, const star_cuda_format *format,
                                                        const void *x, const int32_t *cu_seqlens, void *out,
                                                        cudaStream_t stream);

/**
 * StarSparseAttention: softmax over each joint's neighbours of q k^T / sqrt(C / heads), times v. All F rows are computed.
 * @param neighbours [V] on the host: bit j of entry i is set where (i, j) is an edge; a joint without
 * one gets zeros.
 * @param qkv [F, V, 3C]: q, k, v. @param out [F, V, C].
 */
STAR_CUDA_API cudaError_t star_cuda_sparse_attention(const star_cuda_shape *shape, const star_cuda_format *format,
                                                     const uint64_t *neighbours, const void *qkv, void *out,
                                                     cudaStream_t stream);

/** Bytes of workspace of the segmented linear attention; 0 for a shape it cannot run. Never less for more frames or clips. */
STAR_CUDA_API size_t star_cuda_segmented_linear_attention_workspace(const star_cuda_shape *shape);

/**
 * StarSegmentedLinearAttention: U = sum of phi(k) v^T and Z = sum of phi(k) over each clip's frames, joint and head by joint
 * and head, then phi(q) U / (phi(q) Z + eps); phi(u) = elu(u d^(-1/4)) + 1, d = C / heads.
 * @param qkv [F, V, 3C]: q, k, v. @param out [F, V, C].
 */
STAR_CUDA_API cudaError_t star_cuda_segmented_linear_attention(const star_cuda_shape *shape, const star_cuda_format *format,
                                                               float eps, const void *qkv, const int32_t *cu_seqlens,
                                                               void *workspace, void *out, cudaStream_t stream);

/**
 * StarContextAttention: c = tanh(mean(x) W) of each clip's frames, out = mean(sigmoid(x . c) x), joint by joint; zeros for an
 * empty clip.
 * @param x [F, V, C] of the format, C at most STAR_CUDA_MOST_POOLED. @param weight [C, C], input by output, of `weight_type`,
 * FP32 or FP16.
 * @param out [B, V, C] of the format.
 */
STAR_CUDA_API cudaError_t star_cuda_context_attention(const star_cuda_shape *shape, const star_cuda_format *format,
                                                      star_cuda_type weight_type, const void *x, const void *weight,
                                                      const int32_t *cu_seqlens, void *out, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
