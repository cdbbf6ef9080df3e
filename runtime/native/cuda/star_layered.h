/**
 * @file star_layered.h
 * @brief A whole STAR model of any width and precision on an NVIDIA GPU, layer by layer.
 *
 * Entry points as in star_ops.h: no allocation, no synchronisation, capturable. Features may have room for more frames than
 * cu_seqlens ends at. A clip's logits are the same bits in every run and in any batch.
 */
#ifndef STAR_EDGE_STAR_LAYERED_H
#define STAR_EDGE_STAR_LAYERED_H

#include "star_layers.h"

#ifdef __cplusplus
extern "C" {
#endif

/** LayerNorm's parameters [dim], on the device. */
typedef struct star_cuda_norm {
    const float *weight, *bias;
} star_cuda_norm;

/** x1 = LN(x + attention(qkv x)), LN(x1 + linear2(SiLU(linear1 x1))). */
typedef struct star_cuda_encoder {
    star_cuda_linear_layer qkv, linear1, linear2;
    star_cuda_norm norm1, norm2;
} star_cuda_encoder;

typedef struct star_cuda_layered {
    star_cuda_type activations; /**< FP32, where all layers are; else FP16. */
    int32_t joints, inputs, dim, heads, layers, hidden, classes;
    const uint64_t *neighbours;             /**< As the sparse attention's; on the host. */
    const float *input_scale, *input_shift; /**< [V, C], BatchNorm folded. */
    const float *embedding;                 /**< [C, dim]. */
    const float *embedding_bias;            /**< [dim]. */
    const star_cuda_encoder *encoders;      /**< Spatial and temporal one of each layer, on the host. */
    const float *context;                   /**< [dim, dim], input by output. */
    star_cuda_linear_layer head_hidden, head_output;
} star_cuda_layered;

/** Bytes of workspace that a run needs; 0 for what cannot be run. Never less for more frames or clips. */
STAR_CUDA_API size_t star_cuda_layered_workspace(const star_cuda_layered *model, int32_t frames, int32_t clips);

/** Logits float32 [clips, classes] of features float32 [frames, V, C]. */
STAR_CUDA_API cudaError_t star_cuda_layered_run(const star_cuda_layered *model, int32_t frames, int32_t clips,
                                                const float *features, const int32_t *cu_seqlens, void *workspace,
                                                float *logits, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
