/**
 * @file star_model.h
 * @brief STAR-64 in FP16 on an NVIDIA GPU: two kernels a layer, sums in float32.
 *
 * Plain entry points: no allocation, no synchronisation, grids from static bounds alone, so that a run can be captured in a
 * CUDA graph. Every pointer is device memory, 16-byte aligned. `cu_seqlens` [clips + 1] is read on the device; features may
 * have room for more frames than its last value, and clips may be empty: their pooled rows are zeros. Nothing checks it there:
 * it must begin with 0, not descend, and end at `frames` at most, or memory beyond the buffers is used. A clip's logits are
 * the same bits in every run and in any batch.
 *
 * Inputs and outputs of every packed matrix are permuted: star_cuda_pack_weights() packs a state dict.
 */
#ifndef STAR_EDGE_STAR_MODEL_H
#define STAR_EDGE_STAR_MODEL_H

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#define STAR_CUDA_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

#define STAR_CUDA_DIM 64
#define STAR_CUDA_HEADS 8
/** Rows of 64 inputs in a layer's packed matrices: spatial q, k, v, linear1, linear2; temporal q, linear1, linear2. */
#define STAR_CUDA_LAYER_ROWS 512
/** Vectors of 64 in a layer's parameters: of each encoder norm1 weight and bias, linear1 bias, linear2 bias, norm2 weight and
 * bias. */
#define STAR_CUDA_LAYER_VECTORS 12

typedef struct star_cuda_sizes {
    int32_t joints;   /**< V, at most 64. */
    int32_t channels; /**< C of the features, at most 16. */
    int32_t classes, layers, hidden;
    int32_t edges;  /**< Pairs of the spatial attention. */
    int32_t frames; /**< Room for frames of all clips together. */
    int32_t clips;
    int32_t tile_rows; /**< Tokens a block takes at a time: 128 or 256; 0: chosen for the device and sizes. */
} star_cuda_sizes;

typedef struct star_cuda_weights {
    const float *input_scale, *input_shift; /**< [V, C], BatchNorm folded. */
    const float *embedding;                 /**< [C, 64]. */
    const float *embedding_bias;            /**< [64]. */
    const void *key_values;                 /**< half [layers, 128, 64]: temporal k, v. */
    const void *matrices;                   /**< half [layers, 512, 64]. */
    const float *vectors;                   /**< [layers, 12, 64]. */
    const int32_t *edge_starts;             /**< [V + 1]; neighbours of joint i are edge_ends[edge_starts[i]...]. */
    const int32_t *edge_ends;               /**< [edges]. */
    const float *context;                   /**< [64, 64], input by output. */
    const void *head_hidden;                /**< half [hidden, V * 64]. */
    const float *head_hidden_bias;
    const void *head_output; /**< half [classes, hidden]. */
    const float *head_output_bias;
} star_cuda_weights;

/** A tensor of the state dict by its torch name, float32, row-major, on the host; null where there is none. */
typedef const float *(*star_cuda_tensor)(void *context, const char *name);

/** Bytes that packed weights take; frames, clips and tile_rows of the sizes are not looked at, here and below. */
STAR_CUDA_API size_t star_cuda_weights_size(const star_cuda_sizes *sizes);

/**
 * Packs a state dict into memory of the host, which is then to be copied to the device as it is.
 * @param edges [edges][2]. Returns cudaErrorInvalidValue where a tensor is missing, or an edge leads nowhere.
 */
STAR_CUDA_API cudaError_t star_cuda_pack_weights(const star_cuda_sizes *sizes, const int32_t *edges, star_cuda_tensor tensor,
                                                 void *context, void *host);

/** Addresses of the parts of packed weights in memory, which is not read. */
STAR_CUDA_API void star_cuda_place_weights(const star_cuda_sizes *sizes, const void *memory, star_cuda_weights *weights);

/** Bytes of workspace that a run of these sizes needs; 0 for sizes that it cannot run, on the present device. */
STAR_CUDA_API size_t star_cuda_workspace(const star_cuda_sizes *sizes);

/**
 * Logits float32 [clips, classes] of features float32 [frames, V, C].
 * @param workspace star_cuda_workspace() bytes. Returns what a launch returned, cudaErrorInvalidValue for sizes it cannot run.
 */
STAR_CUDA_API cudaError_t star_cuda_run(const star_cuda_sizes *sizes, const star_cuda_weights *weights, const float *features,
                                        const int32_t *cu_seqlens, void *workspace, float *logits, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
