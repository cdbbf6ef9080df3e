// x86-64 with AVX-512 and its int8 products.
#define STAR_TARGET avx512_vnni
#include "kernels/star_kernels.h"
#include "kernels/targets.h"

namespace star::avx512_vnni {

/// Four int8 by vpdpbusd, whose first factor has no sign: activations are stored plus 128, and sums start 128 weights lower.
struct DotInt8 : Int8Quads<128> {
    template <int N>
    static void multiply_add(Sum<N> &sum, const Operand<N> &weight, const Operand<N> &activation) {
        static_assert(N == 16);
        sum = Sum<N>(
            _mm512_dpbusd_epi32(static_cast<__m512i>(sum), static_cast<__m512i>(activation), static_cast<__m512i>(weight)));
    }
};

const Kernels int8 = make_kernels<DotInt8>("avx512 vnni");

}  // namespace star::avx512_vnni
