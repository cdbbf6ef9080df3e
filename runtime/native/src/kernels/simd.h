// Vectors of the instruction set that a file is compiled for: the standard library's std::experimental::simd.
//
// Every file of an instruction set defines STAR_TARGET, the name of its namespace, so that the linker never merges code of
// two.
#pragma once

#include <bit>
#include <cstdint>
#include <experimental/simd>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef STAR_TARGET
#error "define STAR_TARGET before including this file"
#endif

namespace star::STAR_TARGET {

namespace stdx = std::experimental;

#ifdef STAR_SCALAR
constexpr int kLanes = 1;
#else
constexpr int kLanes = stdx::native_simd<float>::size();
#endif

/// Frames of a tile: whole vectors.
constexpr int kTileFrames = kLanes > 8 ? kLanes : 8;

/// N floats in one register.
template <int N>
using Floats = stdx::simd<float, stdx::simd_abi::deduce_t<float, N>>;
template <int N>
using Ints = stdx::simd<int32_t, stdx::simd_abi::deduce_t<int32_t, N>>;

/// Patterns of bits, whose sums may wrap.
template <int N>
using Bits = stdx::simd<uint32_t, stdx::simd_abi::deduce_t<uint32_t, N>>;

using Vector = Floats<kLanes>;

template <int N>
inline Floats<N> load(const float *from) {
    return Floats<N>(from, stdx::element_aligned);
}

template <class V>
inline void store(float *to, const V &value) {
    value.copy_to(to, stdx::element_aligned);
}

template <int N>
inline Ints<N> load_bits(const uint32_t *from) {
    return Ints<N>(reinterpret_cast<const int32_t *>(from), stdx::element_aligned);
}

template <class To, class From>
inline To bits_of(const From &from) {
    static_assert(sizeof(To) == sizeof(From));
    return std::bit_cast<To>(from);
}

constexpr float kLog2e = 1.44269504f;

/// 2^x to 2.4e-7 relative for x <= 127; below -126 the smallest normal number.
template <class V>
inline V power_of_2(V x) {
    using Pattern = Bits<static_cast<int>(V::size())>;
    const V shift = 12582912.0f;  // 1.5 * 2^23: its sum with x has round(x) in the lowest bits
    x = stdx::max(x, V(-126.0f));
    const V shifted = x + shift;
    const V fraction = x - (shifted - shift);  // [-0.5, 0.5]
    // minimax polynomial of 2^f
    V power = 1.33336498e-3f;
    power = power * fraction + 9.61793571e-3f;
    power = power * fraction + 5.55044182e-2f;
    power = power * fraction + 2.40226261e-1f;
    power = power * fraction + 6.93147182e-1f;
    power = power * fraction + 1.0f;
    return bits_of<V>(bits_of<Pattern>(power) + (bits_of<Pattern>(shifted) << 23));
}

/// 1 / x to 2e-7 relative, for x between 1e-30 and 1e30. A division of 16 floats takes as long as 32 of their products.
template <class V>
inline V reciprocal(V x) {
#if defined(__AVX512F__)
    if constexpr (V::size() == 16) {
        const V estimate(_mm512_rcp14_ps(static_cast<__m512>(x)));
        return estimate + estimate * (1.0f - x * estimate);
    }
#endif
    return 1.0f / x;
}

/// 1 / (1 + e^-x)
template <class V>
inline V sigmoid(V x) {
    return reciprocal(1.0f + power_of_2(stdx::min(x * -kLog2e, V(60.0f))));
}

template <class V>
inline V silu(V x) {
    return x * sigmoid(x);
}

/// elu(x) + 1
template <class V>
inline V phi(V x) {
    V result = x + 1.0f;
    stdx::where(x <= 0.0f, result) = power_of_2(x * kLog2e);
    return result;
}

/// tanh to 1e-7 absolute
template <class V>
inline V hyperbolic_tangent(V x) {
    return 1.0f - 2.0f * sigmoid(x * -2.0f);
}

}  // namespace star::STAR_TARGET
