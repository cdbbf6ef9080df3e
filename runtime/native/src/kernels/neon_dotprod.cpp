// aarch64 with int8 dot products (Jetson Orin and Thor have them).
#define STAR_TARGET neon_dotprod
#include <arm_neon.h>

#include "kernels/star_kernels.h"
#include "kernels/targets.h"

namespace star::neon_dotprod {

/// Four int8 by sdot.
struct DotInt8 : Int8Quads<0> {
    template <int N>
    static void multiply_add(Sum<N> &sum, const Operand<N> &weight, const Operand<N> &activation) {
        static_assert(N == 4);
        sum = Sum<N>(vdotq_s32(static_cast<int32x4_t>(sum), vreinterpretq_s8_s32(static_cast<int32x4_t>(weight)),
                               vreinterpretq_s8_s32(static_cast<int32x4_t>(activation))));
    }
};

const Kernels int8 = make_kernels<DotInt8>("neon dotprod");

}  // namespace star::neon_dotprod
