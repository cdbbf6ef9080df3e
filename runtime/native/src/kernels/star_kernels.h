// The kernels of a STAR model (star_edge/models/star.py) for one instruction set and product policy; see kernels.h for the
// layouts.
#pragma once

#include "kernels/linear.h"

namespace star::STAR_TARGET {

constexpr float kNormEps = 1e-5f, kTemporalEps = 1e-6f;

/// 1 for the frames of a tile that are the clip's, 0 beyond.
struct FrameMask {
    float values[kTileFrames];
    explicit FrameMask(int frames) {
        for (int f = 0; f < kTileFrames; f++) values[f] = f < frames ? 1.0f : 0.0f;
    }
    Vector at(int frame) const { return load<kLanes>(values + frame); }
};

/// Mean and deviation of C vectors of tokens over their channels. Sums are of differences to the first channel: one pass, and
/// no digits lost however far the mean is from zero.
template <int C>
struct Moments {
    Vector pivot[C], sum[C], squares[C];

    /// Channel by channel, from 0 on.
    [[gnu::always_inline]] void add(int channel, int c, const Vector &value) {
        if (channel == 0) {
            pivot[c] = value;
            sum[c] = 0;
            squares[c] = 0;
        }
        const Vector difference = value - pivot[c];
        sum[c] += difference;
        squares[c] += difference * difference;
    }
};

/// Takes vectors of tokens to mean 0 and deviation 1.
template <int C>
class Normaliser {
   public:
    [[gnu::always_inline]] Normaliser(int channels, const Moments<C> &moments) {
        const float inverse_count = 1.0f / static_cast<float>(channels);
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            const Vector mean = moments.sum[c] * inverse_count;
            const Vector variance = stdx::max(moments.squares[c] * inverse_count - mean * mean, Vector(0.0f));
            inverse_[c] = 1.0f / stdx::sqrt(variance + kNormEps);
            shift_[c] = -(moments.pivot[c] + mean) * inverse_[c];
        }
    }

    Vector operator()(int c, const Vector &value) const { return value * inverse_[c] + shift_[c]; }

   private:
    Vector inverse_[C], shift_[C];
};

/// An encoder behind its attention: x1 = LN(attended + x), out = LN(x1 + linear2(SiLU(linear1(x1)))) [+ added].
///
/// Vectors of tokens go through all of it one group after the other; what is between has room for a group alone, so that it
/// stays in the first cache. `out` may be x. First, Second: what linear1 and linear2 were packed for.
template <class P, class First, class Second, class Encoder>
inline void encoder_tail(const Shape &shape, const Encoder &encoder, const float *attended, const float *x, const float *added,
                         float *out, Scratch &scratch) {
    const int dim = shape.dim, stride = shape.stride;
    float *residual = scratch.b.get(), *hidden = scratch.c.get(), *sum = scratch.d.get();
    Profile &profile = scratch.profile;
    const Activations<First> first_input(residual, scratch.packed.get(), dim, kGroupTokens,
                                         encoder.linear1.inverse_input_scale);
    const Activations<Second> second_input(hidden, scratch.packed_hidden.get(), encoder.linear2.inputs, kGroupTokens,
                                           encoder.linear2.inverse_input_scale);
    const float *gain1 = encoder.norm1.weight.get(), *bias1 = encoder.norm1.bias.get();
    const float *gain2 = encoder.norm2.weight.get(), *bias2 = encoder.norm2.bias.get();
    // captured by value throughout: vector stores may alias anything, and what they may alias would be loaded anew after each
    for_token_groups(shape.tokens, [=, &encoder, &scratch, &profile](int token, auto columns) {
        constexpr int C = columns();
        const auto at = [=](int channel, int c) { return static_cast<std::size_t>(channel) * stride + token + c * kLanes; };
        const auto here = [](int channel, int c) { return channel * kGroupTokens + c * kLanes; };

        const auto first_sum = [=](int channel, int c) {
            return load<kLanes>(attended + at(channel, c)) + load<kLanes>(x + at(channel, c));
        };
        Moments<C> first_moments;
        for (int channel = 0; channel < dim; channel++) {
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) first_moments.add(channel, c, first_sum(channel, c));
        }
        const Normaliser<C> first_norm(dim, first_moments);
        first_input.template put<C>(0, [=](int channel, int c) {
            const Vector value = first_norm(c, first_sum(channel, c)) * gain1[channel] + bias1[channel];
            if constexpr (First::packed) store(residual + here(channel, c), value);
            return value;
        });
        profile.end(Stage::first_norm);

        layer_columns<P, First, C>(encoder.linear1, first_input.units(), kGroupTokens, hidden, kGroupTokens, scratch);
        second_input.template put<C>(0, [=](int channel, int c) { return silu(load<kLanes>(hidden + here(channel, c))); });
        profile.end(Stage::first_linear);

        layer_columns<P, Second, C>(encoder.linear2, second_input.units(), kGroupTokens, sum, kGroupTokens, scratch);
        Moments<C> second_moments;
        for (int channel = 0; channel < dim; channel++) {
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) {
                const Vector value = load<kLanes>(sum + here(channel, c)) + load<kLanes>(residual + here(channel, c));
                store(sum + here(channel, c), value);
                second_moments.add(channel, c, value);
            }
        }
        profile.end(Stage::second_linear);
        const Normaliser<C> second_norm(dim, second_moments);
        for (int channel = 0; channel < dim; channel++) {
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) {
                Vector value = second_norm(c, load<kLanes>(sum + here(channel, c))) * gain2[channel] + bias2[channel];
                if (added) value += load<kLanes>(added + at(channel, c));
                store(out + at(channel, c), value);
            }
        }
        profile.end(Stage::second_norm);
    });
}

/// StarSparseAttention on qkv [3 * dim] channels -> [dim] channels in place of q. `scores` has room for a frame vector a
/// joint. kBlock channels of a head are kept in registers; kWhole says that they are all of them.
template <int kBlock, bool kWhole>
inline void sparse_attention(const Weights &weights, float *qkv, float *scores) {
    const Shape &shape = weights.shape;
    const std::size_t n = shape.stride;
    const int head_dim = kWhole ? kBlock : shape.head_dim;
    for (int head = 0; head < shape.heads; head++) {
        float *query = qkv + static_cast<std::size_t>(head) * head_dim * n;
        const float *key = query + shape.dim * n, *value = key + shape.dim * n;
        for (int joint = 0; joint < shape.joints; joint++) {
            const int *neighbours = weights.edge_ends.data() + weights.edge_starts[joint];
            const int degree = weights.edge_starts[joint + 1] - weights.edge_starts[joint];
            for (int frame = 0; frame < kTileFrames; frame += kLanes) {
                float *q = query + joint * kTileFrames + frame;
                Vector largest = -1e30f;
                for (int block = 0; block < head_dim; block += kBlock) {
                    const bool last = block + kBlock == head_dim;
                    Vector queries[kBlock];
#pragma GCC unroll 16
                    for (int c = 0; c < kBlock; c++) queries[c] = load<kLanes>(q + (block + c) * n);
                    for (int i = 0; i < degree; i++) {
                        const float *k = key + neighbours[i] * kTileFrames + frame + block * n;
                        Vector sums[2] = {0, 0};
                        if (block > 0) sums[0] = load<kLanes>(scores + i * kLanes);
#pragma GCC unroll 16
                        for (int c = 0; c < kBlock; c++) sums[c % 2] += queries[c] * load<kLanes>(k + c * n);
                        const Vector score = sums[0] + sums[1];
                        if (last) largest = stdx::max(largest, score);
                        store(scores + i * kLanes, score);
                    }
                }
                Vector total = 0, inverse = 0;
                for (int block = 0; block < head_dim; block += kBlock) {
                    Vector sums[kBlock];
#pragma GCC unroll 16
                    for (int c = 0; c < kBlock; c++) sums[c] = 0;
                    for (int i = 0; i < degree; i++) {
                        Vector weight = load<kLanes>(scores + i * kLanes);
                        if (block == 0) {
                            weight = power_of_2(weight - largest);
                            total += weight;
                            if (!kWhole) store(scores + i * kLanes, weight);
                        }
                        const float *v = value + neighbours[i] * kTileFrames + frame + block * n;
#pragma GCC unroll 16
                        for (int c = 0; c < kBlock; c++) sums[c] += weight * load<kLanes>(v + c * n);
                    }
                    if (block == 0 && degree > 0) inverse = reciprocal(total);
#pragma GCC unroll 16
                    for (int c = 0; c < kBlock; c++) store(q + (block + c) * n, sums[c] * inverse);
                }
            }
        }
    }
}

/// StarSegmentedLinearAttention of phi(queries) [dim] channels with a clip's state -> [dim] channels.
template <int kBlock>
inline void linear_attention(const Shape &shape, const float *query, const float *state, float *out) {
    const std::size_t n = shape.stride;
    const int e = shape.head_dim;
    const float *key_sums = state + shape.state_products();
    for (int joint = 0; joint < shape.joints; joint++) {
        for (int head = 0; head < shape.heads; head++) {
            const float *products = state + (static_cast<std::size_t>(joint) * shape.heads + head) * e * e;
            const float *sums = key_sums + static_cast<std::size_t>(joint) * shape.padded_dim + head * e;
            for (int frame = 0; frame < kTileFrames; frame += kLanes) {
                const std::size_t at = static_cast<std::size_t>(head) * e * n + joint * kTileFrames + frame;
                Vector inverse = 0;
                for (int block = 0; block < e; block += kBlock) {
                    Vector values[kBlock], total = kTemporalEps;
#pragma GCC unroll 16
                    for (int b = 0; b < kBlock; b++) values[b] = 0;
#pragma GCC unroll 8
                    for (int a = 0; a < e; a++) {
                        const Vector q = load<kLanes>(query + at + a * n);
                        if (block == 0) total += q * sums[a];
#pragma GCC unroll 16
                        for (int b = 0; b < kBlock; b++) values[b] += q * products[a * e + block + b];
                    }
                    if (block == 0) inverse = reciprocal(total);
#pragma GCC unroll 16
                    for (int b = 0; b < kBlock; b++) store(out + at + (block + b) * n, values[b] * inverse);
                }
            }
        }
    }
}

/// products [e][e] += keys (x) values of one head over frames, which stand in rows: N values of kBlock keys at a time.
template <int N, int kBlock>
inline void add_products(const float *keys, const float *values, std::size_t row, int frames, int e, bool first,
                         float *products) {
    for (int a = 0; a < e; a += kBlock) {
        for (int b = 0; b < e; b += N) {
            Floats<N> sums[kBlock];
#pragma GCC unroll 16
            for (int i = 0; i < kBlock; i++) {
                sums[i] = 0;
                if (!first) sums[i] = load<N>(products + (a + i) * e + b);
            }
            for (int f = 0; f < frames; f++) {
                const Floats<N> value = load<N>(values + f * row + b);
#pragma GCC unroll 16
                for (int i = 0; i < kBlock; i++) sums[i] += keys[f * row + a + i] * value;
            }
#pragma GCC unroll 16
            for (int i = 0; i < kBlock; i++) store(products + (a + i) * e + b, sums[i]);
        }
    }
}

/// add_products of all heads of a joint, in vectors as wide as head_dim allows.
inline void add_products(const Shape &shape, const float *keys, const float *values, int frames, bool first, float *products) {
    const std::size_t row = 2 * shape.padded_dim;
    const int e = shape.head_dim;
    const auto heads = [&](auto lanes, auto block) {
        for (int head = 0; head < shape.heads; head++)
            add_products<lanes(), block()>(keys + head * e, values + head * e, row, frames, e, first, products + head * e * e);
    };
    using std::integral_constant;
    if (kLanes >= 16 && e % 16 == 0) {
        heads(integral_constant<int, std::min(kLanes, 16)>(), integral_constant<int, 8>());
    } else if (kLanes >= 8 && e % 8 == 0) {
        heads(integral_constant<int, std::min(kLanes, 8)>(), integral_constant<int, 8>());
    } else if (kLanes >= 4 && e % 4 == 0) {
        heads(integral_constant<int, std::min(kLanes, 4)>(), integral_constant<int, 4>());
    } else {
        heads(integral_constant<int, 1>(), integral_constant<int, 1>());
    }
}

/// sums [padded_dim] += keys over frames.
inline void add_keys(const Shape &shape, const float *keys, int frames, bool first, float *sums) {
    for (int c = 0; c < shape.padded_dim; c += kLanes) {
        Vector sum = 0;
        if (!first) sum = load<kLanes>(sums + c);
        for (int f = 0; f < frames; f++) sum += load<kLanes>(keys + static_cast<std::size_t>(f) * 2 * shape.padded_dim + c);
        store(sums + c, sum);
    }
}

/// Calls body with the largest of 8, 4, 2, 1 that divides head_dim, as a compile-time number.
template <class Body>
inline void with_block(int head_dim, const Body &body) {
    if (head_dim % 8 == 0) return body(std::integral_constant<int, 8>());
    if (head_dim % 4 == 0) return body(std::integral_constant<int, 4>());
    if (head_dim % 2 == 0) return body(std::integral_constant<int, 2>());
    body(std::integral_constant<int, 1>());
}

template <class P>
struct StarKernels {
    static void pack(const LinearSource &source, Linear &linear) {
        linear.low_precision = source.low_precision && P::packed;
        if (linear.low_precision) {
            pack_linear<P>(source, linear);
        } else {
            pack_linear<Float32>(source, linear);
        }
    }

    static void embed(const Weights &weights, const float *features, int frames, const float *positions, float *x,
                      Scratch &scratch) {
        const Shape &shape = weights.shape;
        const std::size_t n = shape.stride, row = static_cast<std::size_t>(shape.joints) * shape.channels;
        float *in = scratch.a.get();
        scratch.profile.begin();
        for (int joint = 0; joint < shape.joints; joint++) {
            for (int c = 0; c < shape.channels; c++) {
                const int at = joint * shape.channels + c;
                float *to = in + c * n + joint * kTileFrames;
                for (int f = 0; f < kTileFrames; f++)
                    to[f] = f < frames ? features[f * row + at] * weights.input_scale[at] + weights.input_shift[at] : 0.0f;
            }
        }
        float *embedded = scratch.e.get();
        for_token_groups(shape.tokens, [&](int token, auto columns) {
            layer_columns<P, Float32, columns()>(weights.embedding, in + token, shape.stride, embedded + token, shape.stride,
                                                 scratch);
        });
        for (int c = 0; c < shape.dim; c++) {
            for (int token = 0; token < shape.tokens; token += kLanes)
                store(x + c * n + token, load<kLanes>(embedded + c * n + token) +
                                             load<kLanes>(positions + c * kTileFrames + token % kTileFrames));
        }
        scratch.profile.end(Stage::embedding);
    }

    static void add_state(const Weights &weights, int layer, const float *x, int frames, bool first, float *state,
                          float *latent, Scratch &scratch) {
        const Shape &shape = weights.shape;
        const TemporalEncoder &encoder = weights.layers[layer].temporal;
        const Linear &key_value = encoder.key_value;
        float *keys = scratch.rows.get(), *values = keys + shape.padded_dim;
        const std::size_t row = 2 * shape.padded_dim;
        scratch.profile.begin();
        with_policy<P>(key_value, [&](auto policy) {
            using Q = decltype(policy);
            const auto *units = encoder.latent.outputs == 0 ? packed_input<Q>(shape, key_value, x, scratch)
                                                            : make_latent<Q>(shape, encoder, x, latent, scratch);
            const int padded_dim = shape.padded_dim;
            for (int joint = 0; joint < shape.joints; joint++) {
                linear_rows<Q>(key_value, units + joint * kTileFrames, shape.stride, keys);
                for (int frame = 0; frame < kTileFrames; frame++) {
                    for (int c = 0; c < padded_dim; c += kLanes)
                        store(keys + frame * row + c, phi(load<kLanes>(keys + frame * row + c)));
                }
                scratch.profile.end(Stage::state_projection);
                add_products(shape, keys, values, frames, first,
                             state + static_cast<std::size_t>(joint) * shape.dim * shape.head_dim);
                add_keys(shape, keys, frames, first,
                         state + shape.state_products() + static_cast<std::size_t>(joint) * shape.padded_dim);
                scratch.profile.end(Stage::state_sums);
            }
        });
    }

    static void layer(const Weights &weights, int index, const float *state, const float *latent, float *x, Scratch &scratch) {
        const Shape &shape = weights.shape;
        const Layer &layer = weights.layers[index];
        float *qkv = scratch.a.get(), *spatial = scratch.e.get();
        Profile &profile = scratch.profile;

        profile.begin();
        project(shape, layer.spatial.qkv, x, qkv, scratch);
        profile.end(Stage::spatial_projection);
        with_block(shape.head_dim, [&](auto block) {
            if (shape.head_dim == block()) {
                sparse_attention<block(), true>(weights, qkv, scratch.d.get());
            } else {
                sparse_attention<block(), false>(weights, qkv, scratch.d.get());
            }
        });
        profile.end(Stage::sparse_attention);
        finish(shape, layer.spatial, qkv, x, nullptr, spatial, scratch);

        float *query = qkv, *attended = qkv + shape.tile_size();
        project_query(shape, layer.temporal, x, latent, query, scratch);
        profile.end(Stage::temporal_projection);
        with_block(shape.head_dim, [&](auto block) { linear_attention<block()>(shape, query, state, attended); });
        profile.end(Stage::linear_attention);
        finish(shape, layer.temporal, attended, x, spatial, x, scratch);
    }

    static void add_mean(const Shape &shape, const float *x, int frames, bool first, float *sums) {
        const FrameMask mask(frames);
        for (int c = 0; c < shape.dim; c++) {
            for (int joint = 0; joint < shape.joints; joint++, sums++) {
                Vector sum = 0;
                for (int f = 0; f < kTileFrames; f += kLanes) sum += load<kLanes>(x + joint * kTileFrames + f) * mask.at(f);
                *sums = (first ? 0.0f : *sums) + stdx::reduce(sum);
            }
            x += shape.stride;
        }
    }

    static void context(const Weights &weights, const float *mean, float *context) {
        const Shape &shape = weights.shape;
        for (int c = 0; c < shape.dim; c++) {
            float *out = context + static_cast<std::size_t>(c) * shape.joints;
            for (int joint = 0; joint < shape.joints; joint++) out[joint] = 0;
            for (int a = 0; a < shape.dim; a++) {
                const float weight = weights.context[static_cast<std::size_t>(a) * shape.dim + c];
                for (int joint = 0; joint < shape.joints; joint++)
                    out[joint] += mean[static_cast<std::size_t>(a) * shape.joints + joint] * weight;
            }
            for (int joint = 0; joint < shape.joints; joint++) out[joint] = hyperbolic_tangent(Floats<1>(out[joint]))[0];
        }
    }

    static void add_gated(const Shape &shape, const float *x, const float *context, int frames, bool first, float *sums) {
        const FrameMask mask(frames);
        for (int joint = 0; joint < shape.joints; joint++) {
            for (int f = 0; f < kTileFrames; f += kLanes) {
                const float *at = x + joint * kTileFrames + f;
                Vector score = 0;
                for (int c = 0; c < shape.dim; c++)
                    score += load<kLanes>(at + static_cast<std::size_t>(c) * shape.stride) *
                             context[static_cast<std::size_t>(c) * shape.joints + joint];
                const Vector gate = sigmoid(score) * mask.at(f);
                for (int c = 0; c < shape.dim; c++) {
                    float &sum = sums[static_cast<std::size_t>(c) * shape.joints + joint];
                    sum = (first && f == 0 ? 0.0f : sum) +
                          stdx::reduce(load<kLanes>(at + static_cast<std::size_t>(c) * shape.stride) * gate);
                }
            }
        }
    }

    static void head(const Linear &linear, const float *in, bool with_silu, float *out, Scratch &scratch) {
        const auto multiply = [&scratch](const Linear &by, const float *from, bool activated, float *to) {
            with_policy<P>(by, [&](auto policy) { multiply_vector<decltype(policy)>(by, from, activated, to, scratch); });
        };
        if (!linear.second) return multiply(linear, in, with_silu, out);
        multiply(linear, in, false, scratch.inner.get());
        multiply(*linear.second, scratch.inner.get(), with_silu, out);
    }

   private:
    template <class Q>
    static const typename Q::Unit *packed_input(const Shape &shape, const Linear &linear, const float *x, Scratch &scratch) {
        const Activations<Q> input(const_cast<float *>(x), scratch.packed.get(), linear.inputs, shape.stride,
                                   linear.inverse_input_scale);
        input.pack(shape.tokens);
        return input.units();
    }

    /// out = linear(x), channel-major.
    static void project(const Shape &shape, const Linear &linear, const float *x, float *out, Scratch &scratch) {
        with_policy<P>(linear, [&](auto policy) {
            using Q = decltype(policy);
            const auto *units = packed_input<Q>(shape, linear, x, scratch);
            for_token_groups(shape.tokens, [&](int token, auto columns) {
                layer_columns<P, Q, columns()>(linear, units + token, shape.stride, out + token, shape.stride, scratch);
            });
        });
    }

    /// latent = the first factor of x, in the units Q of the second one, which keys and values take now and queries later.
    template <class Q>
    static const typename Q::Unit *make_latent(const Shape &shape, const TemporalEncoder &encoder, const float *x,
                                               float *latent, Scratch &scratch) {
        float *floats = Q::packed ? scratch.a.get() : latent;
        project(shape, encoder.latent, x, floats, scratch);
        const Activations<Q> second_input(floats, latent, encoder.key_value.inputs, shape.stride,
                                          encoder.key_value.inverse_input_scale);
        second_input.pack(shape.tokens);
        return second_input.units();
    }

    /// out = phi of the queries, channel-major, of x or of its latent.
    static void project_query(const Shape &shape, const TemporalEncoder &encoder, const float *x, const float *latent,
                              float *out, Scratch &scratch) {
        const Linear &query = encoder.query;
        with_policy<P>(query, [&](auto policy) {
            using Q = decltype(policy);
            const auto *units = encoder.latent.outputs == 0 ? packed_input<Q>(shape, query, x, scratch)
                                                            : reinterpret_cast<const typename Q::Unit *>(latent);
            for_token_groups(shape.tokens, [&](int token, auto columns) {
                constexpr int C = columns();
                linear_columns<Q, C>(query, units + token, shape.stride, out + token, shape.stride);
                for (int output = 0; output < shape.dim; output++) {
#pragma GCC unroll 8
                    for (int c = 0; c < C; c++) {
                        float *at = out + static_cast<std::size_t>(output) * shape.stride + token + c * kLanes;
                        store(at, phi(load<kLanes>(at)));
                    }
                }
            });
        });
    }

    template <class Encoder>
    static void finish(const Shape &shape, const Encoder &encoder, const float *attended, const float *x, const float *added,
                       float *out, Scratch &scratch) {
        with_policy<P>(encoder.linear1, [&](auto first) {
            with_policy<P>(encoder.linear2, [&](auto second) {
                encoder_tail<P, decltype(first), decltype(second)>(shape, encoder, attended, x, added, out, scratch);
            });
        });
    }

    /// Token-major on one token: outputs in lanes, so many vectors of them at a time that weights are read line by line.
    template <class Q>
    static void multiply_vector(const Linear &linear, const float *in, bool with_silu, float *out, Scratch &scratch) {
        const auto *x = pack_vector<Q>(in, linear.inputs, linear.inverse_input_scale, scratch.packed.get());
        const auto *weights = reinterpret_cast<const typename Q::Unit *>(linear.weights.get());
        const int steps = units<Q>(linear.inputs);
        const auto outputs_from = [&](int output, auto columns) {
            constexpr int C = columns();
            typename Q::template Sum<kLanes> sums[C];
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) sums[c] = 0;
            for (int step = 0; step < steps; step++) {
                const auto *row = weights + static_cast<std::size_t>(step) * linear.outputs + output;
                const auto scalar = Q::template broadcast<kLanes>(x + step);
#pragma GCC unroll 8
                for (int c = 0; c < C; c++)
                    Q::template multiply_add<kLanes>(sums[c], Q::template vector<kLanes>(row + c * kLanes), scalar);
            }
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) {
                const int at = output + c * kLanes;
                Vector value;
                if constexpr (Q::integer) {
                    const auto start = load_bits<kLanes>(reinterpret_cast<const uint32_t *>(linear.start.get()) + at);
                    value = stdx::static_simd_cast<Vector>(sums[c] + start) * load<kLanes>(linear.scale.get() + at);
                } else {
                    value = sums[c];
                }
                value += load<kLanes>(linear.bias.get() + at);
                store(out + at, with_silu ? silu(value) : value);
            }
        };
        int output = 0;
        for (; output + 8 * kLanes <= linear.outputs; output += 8 * kLanes)
            outputs_from(output, std::integral_constant<int, 8>());
        for (; output < linear.outputs; output += kLanes) outputs_from(output, std::integral_constant<int, 1>());
    }

    template <class Q>
    static const typename Q::Unit *pack_vector(const float *in, int channels, float inverse_scale, float *packed) {
        if constexpr (!Q::packed) {
            return in;
        } else {
            auto *to = reinterpret_cast<int32_t *>(packed);
            for (int unit = 0; unit < units<Q>(channels); unit++) {
                Floats<1> rows[Q::per_unit];
                for (int i = 0; i < Q::per_unit; i++) {
                    const int channel = unit * Q::per_unit + i;
                    rows[i] = channel < channels ? in[channel] : 0.0f;
                }
                to[unit] = Q::template pack<1>(rows, inverse_scale)[0];
            }
            return reinterpret_cast<const typename Q::Unit *>(packed);
        }
    }
};

template <class P>
constexpr Kernels make_kernels(const char *products) {
    using K = StarKernels<P>;
    return {products,     K::pack,  kLanes,      kTileFrames, kGroupTokens, K::embed,
            K::add_state, K::layer, K::add_mean, K::context,  K::add_gated, K::head};
}

}  // namespace star::STAR_TARGET
