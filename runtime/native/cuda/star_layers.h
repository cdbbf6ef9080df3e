/**
 * @file star_layers.h
 * @brief What a STAR model has beside the `Star*` ops, on an NVIDIA GPU: with star_ops.h, a model of any width and precision.
 *
 * Entry points as in star_ops.h: no allocation, no synchronisation, device memory that is 16-byte aligned. A row's result is
 * the same bits whatever rows are beside it. Activations are FP32 or FP16, sums float32 or, of int8 products, int32.
 */
#ifndef STAR_EDGE_STAR_LAYERS_H
#define STAR_EDGE_STAR_LAYERS_H

#include "star_ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/** A linear layer's matrix is padded with zeros to whole tiles: outputs to a multiple of this many. */
#define STAR_CUDA_TILE_OUTPUTS 64
/** Inputs to a multiple of this many bytes. */
#define STAR_CUDA_TILE_BYTES 128

/** out = x W^T + bias, or SiLU of it. */
typedef struct star_cuda_linear_layer {
    star_cuda_type type;     /**< What W is stored, and products are computed in. */
    int32_t inputs, outputs; /**< Inputs are a multiple of 4. */
    const void *matrix;      /**< [outputs, inputs] of the type, both padded. */
    const float *bias;       /**< [outputs], padded. */
    const float *scales;     /**< INT8: value of one step of an output's sum, [outputs], padded; else unused. */
    float input_scale;       /**< INT8: value of one level of x. */
    int32_t silu;
} star_cuda_linear_layer;

/**
 * @param x [rows, inputs] of `x_type`: FP32 for a layer in FP32, else FP16. @param out [rows, outputs] of `out_type`, FP32 or
 * FP16.
 */
STAR_CUDA_API cudaError_t star_cuda_linear(const star_cuda_linear_layer *layer, int64_t rows, star_cuda_type x_type,
                                           const void *x, star_cuda_type out_type, void *out, cudaStream_t stream);

/**
 * out = LayerNorm(x + branch), eps 1e-5, plus `added` unless that is null.
 * @param x, branch, added, out [rows, channels] of the type; out may be any of them. @param weight, bias [channels].
 */
STAR_CUDA_API cudaError_t star_cuda_residual_norm(star_cuda_type type, int64_t rows, int32_t channels, const void *x,
                                                  const void *branch, const float *weight, const float *bias,
                                                  const void *added, void *out, cudaStream_t stream);

/**
 * out = (features * scale + shift) W + bias: the input's BatchNorm, folded, and the embedding.
 * @param features [frames, joints, inputs]. @param scale, shift [joints, inputs]. @param matrix [inputs, channels].
 * @param out [frames, joints, channels] of the type; channels a multiple of 4.
 */
STAR_CUDA_API cudaError_t star_cuda_embed(star_cuda_type type, int32_t frames, int32_t joints, int32_t inputs,
                                          int32_t channels, const float *features, const float *scale, const float *shift,
                                          const float *matrix, const float *bias, void *out, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
