// Input normalisation and embedding: a thread takes four channels of a token.
#include "../ops/shapes.h"
#include "../star_layers.h"

namespace {

constexpr int kThreads = 256;

struct Embedding {
    int joints, inputs, channels;
    const float *scale, *shift, *matrix, *bias;
};

template <class Element>
__global__ void __launch_bounds__(kThreads, 1)
    embed_kernel(Embedding embedding, int tokens, const float *features, Element *out) {
    const int quads = embedding.channels / 4, item = blockIdx.x * kThreads + threadIdx.x;
    const int token = item / quads, channel = item % quads * 4, inputs = embedding.inputs;
    if (token >= tokens) return;
    const int own = token % embedding.joints * inputs;
    float4 sum = load(embedding.bias + channel, 0);
    for (int input = 0; input < inputs; input++) {
        const float value = features[static_cast<size_t>(token) * inputs + input] * embedding.scale[own + input] +
                            embedding.shift[own + input];
        const float4 column = load(embedding.matrix + input * embedding.channels + channel, 0);
        sum = make_float4(sum.x + value * column.x, sum.y + value * column.y, sum.z + value * column.z,
                          sum.w + value * column.w);
    }
    store(out + static_cast<size_t>(token) * embedding.channels + channel, sum, 0);
}

}  // namespace

cudaError_t star_cuda_embed(star_cuda_type type, int32_t frames, int32_t joints, int32_t inputs, int32_t channels,
                            const float *features, const float *scale, const float *shift, const float *matrix,
                            const float *bias, void *out, cudaStream_t stream) {
    const star_cuda_shape shape{frames, 1, joints, channels, 1};
    if (!can_run(shape) || inputs < 1 || type == STAR_CUDA_INT8 || scale == nullptr || shift == nullptr || matrix == nullptr ||
        bias == nullptr)
        return cudaErrorInvalidValue;
    if (frames == 0) return cudaSuccess;
    if (features == nullptr || out == nullptr) return cudaErrorInvalidValue;
    const int tokens = frames * joints;
    const Embedding embedding{joints, inputs, channels, scale, shift, matrix, bias};
    return for_float_type(type, [&](auto element) {
        using Element = decltype(element);
        const dim3 grid(blocks_of(static_cast<int64_t>(tokens) * (channels / 4), kThreads));
        return launch(embed_kernel<Element>, grid, kThreads, 0, stream, embedding, tokens, features,
                      static_cast<Element *>(out));
    });
}
