// How products are multiplied: float32, and what any instruction set can do for bfloat16 and int8.
//
// A product policy has units of 32 bits: one float, two bfloat16 or int16, four int8, of consecutive channels of one token. A
// multiplication is a unit broadcast times a vector of units, added to a vector of sums.
#pragma once

#include <algorithm>
#include <cmath>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/simd.h"

namespace star::STAR_TARGET {

struct Float32 {
    using Unit = float;
    static constexpr int per_unit = 1;
    static constexpr bool packed = false, integer = false;
    template <int N>
    using Sum = Floats<N>;
    template <int N>
    using Operand = Floats<N>;

    template <int N>
    static Operand<N> broadcast(const Unit *from) {
        return *from;
    }
    template <int N>
    static Operand<N> vector(const Unit *from) {
        return load<N>(from);
    }
    template <int N>
    static void multiply_add(Sum<N> &sum, const Operand<N> &weight, const Operand<N> &activation) {
        sum += weight * activation;
    }
    static Unit unit(const float *values) { return *values; }
};

/// Several low-precision numbers in 32 bits.
struct PackedUnits {
    using Unit = uint32_t;
    static constexpr bool packed = true;
    template <int N>
    using Operand = Ints<N>;

    template <int N>
    static Operand<N> broadcast(const Unit *from) {
        return static_cast<int32_t>(*from);
    }
    template <int N>
    static Operand<N> vector(const Unit *from) {
        return load_bits<N>(from);
    }
};

/// Patterns of floats -> those whose upper halves are the nearest bfloat16, ties to even; the lower halves mean nothing.
template <class Pattern>
inline Pattern round_bfloat16(Pattern bits) {
    return bits + 0x7fff + ((bits >> 16) & 1);
}

/// Pairs of bfloat16, the even channel in the lower half.
struct BfloatPairs : PackedUnits {
    static constexpr int per_unit = 2;
    static constexpr bool integer = false;
    template <int N>
    using Sum = Floats<N>;

    static Unit unit(const float *values) {
        const auto rounded = [](float value) { return round_bfloat16(std::bit_cast<uint32_t>(value)); };
        return rounded(values[0]) >> 16 | (rounded(values[1]) & 0xffff0000);
    }

    template <int N>
    static Ints<N> pack(const Floats<N> (&channels)[2], float) {
#if defined(__AVX512BF16__)
        if constexpr (N ==
                      16) {  // two instructions for ten: all of the second vector above all of the first, then interleaved
            const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                                   21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
            const __m512bh halves = _mm512_cvtne2ps_pbh(static_cast<__m512>(channels[1]), static_cast<__m512>(channels[0]));
            return Ints<N>(_mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(halves)));
        }
#endif
        const Bits<N> even = round_bfloat16(bits_of<Bits<N>>(channels[0]));
        const Bits<N> odd = round_bfloat16(bits_of<Bits<N>>(channels[1]));
        return bits_of<Ints<N>>(Bits<N>((even >> 16) | (odd & 0xffff0000)));
    }
};

/// bfloat16 without instructions for it, or with slow ones: rounded, and multiplied in float32.
struct Bfloat16 : Float32 {
    static constexpr bool packed = true;

    static Unit unit(const float *values) { return std::bit_cast<float>(keep(std::bit_cast<uint32_t>(values[0]))); }
    template <int N>
    static Ints<N> pack(const Floats<N> (&channels)[1], float) {
        return bits_of<Ints<N>>(keep(bits_of<Bits<N>>(channels[0])));
    }

   private:
    template <class Pattern>
    static Pattern keep(Pattern bits) {
        return round_bfloat16(bits) & 0xffff0000;
    }
};

/// The bundle's int8: nearest integer, ties to even, within +-127.
inline int32_t round_int8(float value) { return static_cast<int32_t>(std::nearbyint(std::clamp(value, -127.0f, 127.0f))); }

template <class V>
inline Ints<static_cast<int>(V::size())> round_int8(V value) {
    const V shift = 12582912.0f;  // see power_of_2
    value = stdx::max(stdx::min(value, V(127.0f)), V(-127.0f)) + shift;
    return bits_of<Ints<static_cast<int>(V::size())>>(value) - 0x4b400000;
}

/// int8 in pairs of int16, whose products every instruction set adds without overflow.
struct Int8Pairs : PackedUnits {
    static constexpr int per_unit = 2;
    static constexpr bool integer = true;
    static constexpr int offset = 0;
    template <int N>
    using Sum = Ints<N>;

    static Unit unit(const float *levels) {
        const auto half = [](float level) {
            return static_cast<uint32_t>(static_cast<uint16_t>(static_cast<int16_t>(level)));
        };
        return half(levels[0]) | half(levels[1]) << 16;
    }
    template <int N>
    static Ints<N> pack(const Floats<N> (&channels)[2], float inverse_scale) {
        return (round_int8(channels[0] * inverse_scale) & 0xffff) | (round_int8(channels[1] * inverse_scale) << 16);
    }
    template <int N>
    static void multiply_add(Sum<N> &sum, const Operand<N> &weight, const Operand<N> &activation) {
#if defined(__AVX512BW__)
        if constexpr (N == 16) {
            sum += Ints<N>(_mm512_madd_epi16(static_cast<__m512i>(weight), static_cast<__m512i>(activation)));
            return;
        }
#endif
#if defined(__AVX2__)
        if constexpr (N == 8) {
            sum += Ints<N>(_mm256_madd_epi16(static_cast<__m256i>(weight), static_cast<__m256i>(activation)));
            return;
        }
#endif
        sum += ((weight << 16) >> 16) * ((activation << 16) >> 16) + (weight >> 16) * (activation >> 16);
    }
};

/// Four int8; kOffset is added to activations, for instructions that want them without a sign.
template <int kOffset>
struct Int8Quads : PackedUnits {
    static constexpr int per_unit = 4;
    static constexpr bool integer = true;
    static constexpr int offset = kOffset;
    template <int N>
    using Sum = Ints<N>;

    static Unit unit(const float *levels) {
        Unit unit = 0;
        for (int i = 0; i < 4; i++)
            unit |= static_cast<uint32_t>(static_cast<uint8_t>(static_cast<int8_t>(levels[i]))) << 8 * i;
        return unit;
    }
    template <int N>
    static Ints<N> pack(const Floats<N> (&channels)[4], float inverse_scale) {
#if defined(__AVX512BW__)
        if constexpr (N == 16) {
            // conversions and narrowings saturate; per 128 bits the four channels then stand one after the other
            const auto rounded = [&](int i) { return _mm512_cvtps_epi32(static_cast<__m512>(channels[i] * inverse_scale)); };
            const __m512i narrow =
                _mm512_packs_epi16(_mm512_packs_epi32(rounded(0), rounded(1)), _mm512_packs_epi32(rounded(2), rounded(3)));
            const __m512i order = _mm512_broadcast_i32x4(_mm_set_epi8(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0));
            const __m512i levels = _mm512_max_epi8(_mm512_shuffle_epi8(narrow, order), _mm512_set1_epi8(-127));
            return Ints<N>(_mm512_add_epi8(levels, _mm512_set1_epi8(static_cast<char>(kOffset))));
        }
#endif
        Ints<N> unit = 0;
        for (int i = 0; i < 4; i++) unit = unit | (((round_int8(channels[i] * inverse_scale) + offset) & 0xff) << 8 * i);
        return unit;
    }
};

}  // namespace star::STAR_TARGET
