// Linear layers on a tile, in either layout of the result.
#pragma once

#include "kernels/kernels.h"
#include "kernels/products.h"

namespace star::STAR_TARGET {

/// Register tile: sums of kRows outputs (or tokens) by kColumns vectors. It fills the registers beside one row of operands.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows = 8, kColumns = 3;
#else
constexpr int kRows = 4, kColumns = 3;
#endif

constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

template <class P>
constexpr int units(int channels) {
    return (channels + P::per_unit - 1) / P::per_unit;
}

/// sums[r][c] += scalars[i][r] * vectors[i][c] over i. One of the two are weights; with kTokenMajor the vectors are.
template <class P, int C, bool kTokenMajor>
[[gnu::always_inline]] inline void multiply(typename P::template Sum<kLanes> (&sums)[kRows][C],
                                            const typename P::Unit *scalars, std::size_t scalar_stride,
                                            const typename P::Unit *vectors, std::size_t vector_stride, int steps) {
    using Operand = typename P::template Operand<kLanes>;
    for (int i = 0; i < steps; i++) {
        Operand row[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) row[c] = P::template vector<kLanes>(vectors + i * vector_stride + c * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; r++) {
            const Operand scalar = P::template broadcast<kLanes>(scalars + i * scalar_stride + r);
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) {
                if constexpr (kTokenMajor) {
                    P::template multiply_add<kLanes>(sums[r][c], row[c], scalar);
                } else {
                    P::template multiply_add<kLanes>(sums[r][c], scalar, row[c]);
                }
            }
        }
    }
}

/// Channel-major: out = linear(x) of C vectors of tokens, whole blocks of outputs; x points to their first unit.
///
/// A function of its own that does nothing else: where more is inlined beside them, compilers keep the sums in memory.
template <class P, int C>
[[gnu::noinline]] void linear_columns(const Linear &layer, const typename P::Unit *x, int stride, float *out, int out_stride) {
    const auto *weights = reinterpret_cast<const typename P::Unit *>(layer.weights.get());
    const auto *start = reinterpret_cast<const int32_t *>(layer.start.get());
    const float *bias = layer.bias.get(), *scale = layer.scale.get();
    const int steps = units<P>(layer.inputs), outputs = layer.outputs;
    for (int output = 0; output < outputs; output += kRows) {
        typename P::template Sum<kLanes> sums[kRows][C];
#pragma GCC unroll 16
        for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) {
                if constexpr (P::integer) {
                    sums[r][c] = start[output + r];
                } else {
                    sums[r][c] = bias[output + r];
                }
            }
        }
        multiply<P, C, false>(sums, weights + static_cast<std::size_t>(output) * steps, kRows, x, stride, steps);
        float *to = out + static_cast<std::size_t>(output) * out_stride;
#pragma GCC unroll 16
        for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) {
                if constexpr (P::integer) {
                    store(to + r * out_stride + c * kLanes,
                          stdx::static_simd_cast<Vector>(sums[r][c]) * scale[output + r] + bias[output + r]);
                } else {
                    store(to + r * out_stride + c * kLanes, sums[r][c]);
                }
            }
        }
    }
}

/// Tokens of the largest group.
constexpr int kGroupTokens = kColumns * kLanes;

/// Calls body(token, columns) so that all tokens of a tile, whole vectors of them, are covered once; columns is a compile-time
/// number of vectors.
template <class Body>
[[gnu::always_inline]] inline void for_token_groups(int tokens, const Body &body) {
    int token = 0;
    for (; token + kColumns * kLanes <= tokens; token += kColumns * kLanes)
        body(token, std::integral_constant<int, kColumns>());
    for (; token + kLanes <= tokens; token += kLanes) body(token, std::integral_constant<int, 1>());
}

/// Calls body with a value of the policy that a linear layer was packed for.
template <class P, class Body>
inline auto with_policy(const Linear &layer, const Body &body) {
    return layer.low_precision ? body(P()) : body(Float32());
}

/// Token-major: out = linear(x) of kRows tokens and C vectors of outputs from `output` on; alone for the reason above.
template <class P, int C>
[[gnu::noinline]] void linear_block(const Linear &layer, const typename P::Unit *x, int stride, int output, float *out) {
    const auto *weights = reinterpret_cast<const typename P::Unit *>(layer.weights.get()) + output;
    const auto *start = reinterpret_cast<const uint32_t *>(layer.start.get()) + output;
    const float *bias = layer.bias.get() + output, *scale = layer.scale.get() + output;
    const int width = layer.outputs;
    typename P::template Sum<kLanes> sums[kRows][C];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            if constexpr (P::integer) {
                sums[r][c] = load_bits<kLanes>(start + c * kLanes);
            } else {
                sums[r][c] = load<kLanes>(bias + c * kLanes);
            }
        }
    }
    multiply<P, C, true>(sums, x, stride, weights, width, units<P>(layer.inputs));
    out += output;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            float *to = out + static_cast<std::size_t>(r) * width + c * kLanes;
            if constexpr (P::integer) {
                store(to, stdx::static_simd_cast<Vector>(sums[r][c]) * load<kLanes>(scale + c * kLanes) +
                              load<kLanes>(bias + c * kLanes));
            } else {
                store(to, sums[r][c]);
            }
        }
    }
}

/// Token-major: out [kTileFrames][outputs] = linear(x) of the tile's frames of one joint; x points to their first unit.
template <class P>
inline void linear_rows(const Linear &layer, const typename P::Unit *x, int stride, float *out) {
    static_assert(kTileFrames % kRows == 0);
    const int width = layer.outputs;  // a multiple of kLanes
    for (int row = 0; row < kTileFrames; row += kRows, out += static_cast<std::size_t>(kRows) * width) {
        int output = 0;
        for (; output + kColumns * kLanes <= width; output += kColumns * kLanes)
            linear_block<P, kColumns>(layer, x + row, stride, output, out);
        for (; output + 2 * kLanes <= width; output += 2 * kLanes) linear_block<P, 2>(layer, x + row, stride, output, out);
        for (; output < width; output += kLanes) linear_block<P, 1>(layer, x + row, stride, output, out);
    }
}

/// Activations as the units a policy multiplies, [unit][token]: where to put channels and whence to read.
///
/// For float32 these are the activations themselves, at `floats`; for others they are packed into `packed`.
template <class P>
class Activations {
   public:
    using Unit = typename P::Unit;

    Activations(float *floats, float *packed, int channels, int stride, float inverse_scale)
        : floats_(floats),
          packed_(reinterpret_cast<int32_t *>(packed)),
          channels_(channels),
          stride_(stride),
          inverse_scale_(inverse_scale) {}

    const Unit *units() const {
        if constexpr (P::packed) {
            return reinterpret_cast<const Unit *>(packed_);
        } else {
            return floats_;
        }
    }

    /// Puts value(channel, c) for every channel, of C vectors of tokens from `token` on; beyond the last one in its unit
    /// zeros.
    template <int C, class Value>
    [[gnu::always_inline]] void put(int token, const Value &value) const {
        constexpr int kUnit = P::per_unit;
        for (int channel = 0; channel < channels_; channel += kUnit) {
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) {
                Vector values[kUnit];
#pragma GCC unroll 4
                for (int i = 0; i < kUnit; i++) {
                    values[i] = 0;
                    if (channel + i < channels_) values[i] = value(channel + i, c);
                }
                const std::size_t at = static_cast<std::size_t>(channel / kUnit) * stride_ + token + c * kLanes;
                if constexpr (P::packed) {
                    P::template pack<kLanes>(values, inverse_scale_).copy_to(packed_ + at, stdx::element_aligned);
                } else {
                    store(floats_ + at, values[0]);
                }
            }
        }
    }

    /// Packs what stands in `floats`: C vectors of tokens from `token` on.
    template <int C>
    void pack_columns(int token) const {
        if constexpr (P::packed) {
            put<C>(token, [=, this](int channel, int c) {
                return load<kLanes>(floats_ + static_cast<std::size_t>(channel) * stride_ + token + c * kLanes);
            });
        }
    }

    /// Packs all that stands in `floats`.
    void pack(int tokens) const {
        for_token_groups(tokens, [this](int token, auto columns) { pack_columns<columns()>(token); });
    }

   private:
    float *floats_;
    int32_t *packed_;
    int channels_, stride_;
    float inverse_scale_;
};

/// Channel-major: out = layer(x) of C vectors of tokens, as linear_columns, through both factors where it is of low rank.
///
/// Q: what the layer was packed for, where a program's precision is P.
template <class P, class Q, int C>
inline void layer_columns(const Linear &layer, const typename Q::Unit *x, int stride, float *out, int out_stride,
                          Scratch &scratch) {
    if (!layer.second) return linear_columns<Q, C>(layer, x, stride, out, out_stride);
    float *inner = scratch.inner.get();
    linear_columns<Q, C>(layer, x, stride, inner, kGroupTokens);
    const Linear &second = *layer.second;
    with_policy<P>(second, [&](auto policy) {
        using R = decltype(policy);
        const Activations<R> input(inner, scratch.packed_inner.get(), second.inputs, kGroupTokens, second.inverse_input_scale);
        input.template pack_columns<C>(0);
        linear_columns<R, C>(second, input.units(), kGroupTokens, out, out_stride);
    });
}

/// Fills `linear` from its source, in units of P.
template <class P>
void pack_linear(const LinearSource &source, Linear &linear) {
    const int steps = units<P>(source.inputs);
    const int outputs = round_up(source.outputs, source.token_major ? kLanes : kRows);
    linear.inputs = source.inputs;
    linear.outputs = outputs;
    linear.bias = allocate_floats(outputs);
    linear.weights = allocate_floats(static_cast<std::size_t>(outputs) * steps);
    if constexpr (P::integer) {
        linear.scale = allocate_floats(outputs);
        linear.start = allocate_floats(outputs);
        linear.inverse_input_scale = 127.0f / source.input_amax;
    }
    auto *packed = reinterpret_cast<typename P::Unit *>(linear.weights.get());
    for (int output = 0; output < source.outputs; output++) {
        const float *row = source.weight + static_cast<std::size_t>(output) * source.inputs;
        const float factor = source.factors ? source.factors[output] : 1.0f;
        float amax = 0;
        for (int i = 0; i < source.inputs; i++) amax = std::max(amax, std::abs(row[i]));
        const float weight_scale = amax > 0 ? amax / 127.0f : 1.0f;
        int32_t level_sum = 0;
        for (int step = 0; step < steps; step++) {
            float values[P::per_unit] = {};
            for (int i = 0; i < P::per_unit && step * P::per_unit + i < source.inputs; i++) {
                const float weight = row[step * P::per_unit + i];
                values[i] = P::integer ? static_cast<float>(round_int8(weight / weight_scale)) : weight * factor;
                level_sum += P::integer ? static_cast<int32_t>(values[i]) : 0;
            }
            const std::size_t at =
                source.token_major ? static_cast<std::size_t>(step) * outputs + output
                                   : static_cast<std::size_t>(output / kRows * kRows) * steps + step * kRows + output % kRows;
            packed[at] = P::unit(values);
        }
        if (source.bias) linear.bias[output] = source.bias[output] * factor;
        if constexpr (P::integer) {
            linear.scale[output] = source.input_amax / 127.0f * weight_scale * factor;
            reinterpret_cast<int32_t *>(linear.start.get())[output] = -P::offset * level_sum;
        }
    }
}

}  // namespace star::STAR_TARGET
