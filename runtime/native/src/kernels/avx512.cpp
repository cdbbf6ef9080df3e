// x86-64 with AVX-512 (F, BW, CD, DQ, VL).
#define STAR_TARGET avx512
#include "kernels/star_kernels.h"
#include "kernels/targets.h"

namespace star::avx512 {

const Kernels float32 = make_kernels<Float32>("avx512 fma");
const Kernels bfloat16 = make_kernels<Bfloat16>("avx512 fma");
const Kernels int8 = make_kernels<Int8Pairs>("avx512 pmaddwd");

}  // namespace star::avx512
