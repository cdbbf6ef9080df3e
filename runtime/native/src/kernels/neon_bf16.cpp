// aarch64 with bfloat16 dot products (Jetson Thor has them, Orin has not).
#define STAR_TARGET neon_bf16
#include <arm_neon.h>

#include "kernels/star_kernels.h"
#include "kernels/targets.h"

namespace star::neon_bf16 {

/// Pairs of bfloat16 by bfdot.
struct DotBfloat16 : BfloatPairs {
    template <int N>
    static void multiply_add(Sum<N> &sum, const Operand<N> &weight, const Operand<N> &activation) {
        static_assert(N == 4);
        sum = Sum<N>(vbfdotq_f32(static_cast<float32x4_t>(sum), vreinterpretq_bf16_s32(static_cast<int32x4_t>(weight)),
                                 vreinterpretq_bf16_s32(static_cast<int32x4_t>(activation))));
    }
};

const Kernels bfloat16 = make_kernels<DotBfloat16>("neon bfdot");

}  // namespace star::neon_bf16
