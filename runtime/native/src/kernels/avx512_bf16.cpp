// x86-64 with AVX-512 and its bfloat16 products.
#define STAR_TARGET avx512_bf16
#include "kernels/star_kernels.h"
#include "kernels/targets.h"

namespace star::avx512_bf16 {

/// Pairs of bfloat16 by vdpbf16ps.
struct DotBfloat16 : BfloatPairs {
    template <int N>
    static void multiply_add(Sum<N> &sum, const Operand<N> &weight, const Operand<N> &activation) {
        static_assert(N == 16);
        sum = Sum<N>(_mm512_dpbf16_ps(static_cast<__m512>(sum), reinterpret_cast<__m512bh>(static_cast<__m512i>(weight)),
                                      reinterpret_cast<__m512bh>(static_cast<__m512i>(activation))));
    }
};

const Kernels bfloat16 = make_kernels<DotBfloat16>("avx512 dpbf16");

}  // namespace star::avx512_bf16
