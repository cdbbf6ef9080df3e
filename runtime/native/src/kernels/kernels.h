// What an instruction set provides: the arithmetic of a STAR model on tiles of eight frames.
//
// A tile holds consecutive frames of one clip, eight or as many as a vector has lanes. Its activations are channel-major,
// [channel][joint * frames + frame] with rows of `stride`: a vector register holds one channel of many tokens, so
// normalisations and softmax need no work across lanes, and any head_dim, joint count and width runs on the same code. Frames
// beyond the clip's end are computed from zeros and left out of every sum. Only keys and values of the temporal branch are
// token-major, [joint * frames + frame][channel], as k (x) v wants them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "model.h"
#include "profile.h"

namespace star {

/// Memory for vector loads and stores.
constexpr std::size_t kAlignment = 64;

struct AlignedDelete {
    void operator()(float *memory) const { ::operator delete[](memory, std::align_val_t(kAlignment)); }
};
using AlignedFloats = std::unique_ptr<float[], AlignedDelete>;

/// Zeroed; throws std::bad_alloc.
AlignedFloats allocate_floats(std::size_t count);

/// Sizes every kernel needs.
struct Shape {
    int joints, channels, classes, dim, heads, head_dim, layers, hidden;
    int ffn, rank;  // the largest of any encoder's FFN, of any layer of low rank
    int latent;     // the largest of any temporal encoder's queries, keys and values, in whole blocks
    int tile_frames;
    int tokens;        // of a tile: joints * tile_frames
    int stride;        // from one channel of a tile to the next: tokens in whole cache lines
    int group_tokens;  // of a tile that go through the end of an encoder together
    int padded_dim;    // dim in whole vectors: row of keys, of values
    /// Floats of a clip's k (x) v and key sums: [joint][head][head_dim][head_dim], then [joint][padded_dim].
    std::size_t state_size() const { return state_products() + static_cast<std::size_t>(joints) * padded_dim; }
    std::size_t state_products() const { return static_cast<std::size_t>(joints) * dim * head_dim; }
    std::size_t tile_size() const { return static_cast<std::size_t>(dim) * stride; }
    std::size_t latent_size() const { return static_cast<std::size_t>(latent) * stride; }
};

/// A linear layer x W^T + b, packed for the instruction set. All arrays are padded to whole blocks.
struct Linear {
    int inputs = 0, outputs = 0;
    AlignedFloats weights;           // packed, of the precision's own layout
    AlignedFloats bias;              // [outputs]
    AlignedFloats scale;             // int8: of each output, input's and weight's scale and any folded factor
    AlignedFloats start;             // int8, as int32: what an output's sum begins with
    float inverse_input_scale = 0;   // int8: 127 / amax of the input
    bool low_precision = false;      // multiplied in the program's precision, not in float32
    std::unique_ptr<Linear> second;  // of low rank: the factor that the outputs of this one go through
};

struct Norm {
    AlignedFloats weight, bias;  // [dim]
};

struct SpatialEncoder {
    Linear qkv;  // query rows times log2(e) / sqrt(head_dim), so that softmax is exp2 of the product
    Norm norm1;
    Linear linear1, linear2;
    Norm norm2;
};

struct TemporalEncoder {
    Linear latent;     // of low rank: the factor whose outputs query and key_value take, else without outputs
    Linear query;      // times head_dim^(-1/4)
    Linear key_value;  // token-major: [keys times head_dim^(-1/4), padded | values, padded]
    Norm norm1;
    Linear linear1, linear2;
    Norm norm2;
};

struct Layer {
    SpatialEncoder spatial;
    TemporalEncoder temporal;
};

/// A model packed for one instruction set and precision.
struct Weights {
    Shape shape;
    AlignedFloats input_scale, input_shift;  // [joint * channels], BatchNorm folded
    Linear embedding;                        // float32
    std::vector<Layer> layers;
    std::vector<int> edge_starts, edge_ends;  // [joints + 1]; neighbours of joint i are edge_ends[edge_starts[i]...]
    AlignedFloats context;                    // [dim, dim]
    Linear head_hidden, head_output;
};

/// How a linear layer is to be packed.
struct LinearSource {
    const float *weight;   // [outputs, inputs]
    const float *bias;     // [outputs] or null
    const float *factors;  // [outputs] or null: folded into weights, or into the scales of int8
    int inputs, outputs;
    bool token_major;
    bool low_precision;
    float input_amax;  // int8
};

/// Scratch of one thread.
struct Scratch {
    explicit Scratch(const Shape &shape);
    AlignedFloats a, e;                   // a tile each, rows in whole blocks; `a` three of them, for q, k, v
    AlignedFloats b, c, d;                // a group of tokens each; b also a row of a clip, d a vector a joint
    AlignedFloats packed, packed_hidden;  // activations of a tile, of a group, in the precision of the products
    AlignedFloats inner, packed_inner;    // between two factors: a group of tokens, or a vector of the head
    AlignedFloats rows;                   // keys and values of one joint [tile_frames][2 * padded_dim]
    AlignedFloats hidden, logits;         // of the head, whole vectors
    Profile profile;
};

/// The functions of one instruction set and precision. All work on one tile unless said otherwise.
struct Kernels {
    const char *products;  // see star_model_info

    /// Pack a linear layer; float32 whatever the precision unless source.low_precision.
    void (*pack)(const LinearSource &source, Linear &linear);
    int lanes;                      // rows of keys and of values are padded to whole vectors
    int tile_frames, group_tokens;  // multiples of lanes

    /// x = positions + embedding of features [frames][joint][channel]; positions [dim][tile_frames].
    void (*embed)(const Weights &weights, const float *features, int frames, const float *positions, float *x,
                  Scratch &scratch);

    /// Add keys (x) values and key sums of a layer over the tile's frames to state, or set state where first. What its
    /// temporal encoder's first factor makes of x is left in latent, as the second one takes it.
    void (*add_state)(const Weights &weights, int layer, const float *x, int frames, bool first, float *state, float *latent,
                      Scratch &scratch);

    /// x = spatial(x) + temporal(x), with the clip's state of the layer and what add_state left in latent.
    void (*layer)(const Weights &weights, int layer, const float *state, const float *latent, float *x, Scratch &scratch);

    /// sums [dim][joint] += x over the tile's frames, or = where first.
    void (*add_mean)(const Shape &shape, const float *x, int frames, bool first, float *sums);

    /// context [dim][joint] = tanh of mean [dim][joint] times the context weight. Not a tile's: one clip's.
    void (*context)(const Weights &weights, const float *mean, float *context);

    /// sums [dim][joint] += gate * x over the tile's frames, or = where first; gate = sigmoid(x . context).
    void (*add_gated)(const Shape &shape, const float *x, const float *context, int frames, bool first, float *sums);

    /// out = a linear layer of the head on one vector; both padded to whole vectors.
    void (*head)(const Linear &linear, const float *in, bool silu, float *out, Scratch &scratch);
};

}  // namespace star
