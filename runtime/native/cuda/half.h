// float16 on the host, where compilers differ in what they have.
#pragma once

#include <cstdint>
#include <cstring>

namespace star {

/// The nearest float16, ties to even; infinite from 65520 on.
inline uint16_t half_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);   // NaN
    if (bits >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // from 65520 on
    if (bits < 0x38800000u) {  // below the normal numbers: steps of 2^-24, as 0.5f has
        float magnitude;
        std::memcpy(&magnitude, &bits, sizeof magnitude);
        const float shifted = magnitude + 0.5f;
        std::memcpy(&bits, &shifted, sizeof bits);
        return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
    }
    bits += 0xfffu + (bits >> 13 & 1u);
    return static_cast<uint16_t>(sign | (bits - 0x38000000u) >> 13);
}

inline float half_value(uint16_t half) {
    const uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31u, mantissa = half & 0x3ffu;
    if (exponent == 0) {
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
        return sign != 0 ? -magnitude : magnitude;
    }
    const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace star
