// x86-64 with AVX2 and FMA.
#define STAR_TARGET avx2
#include "kernels/star_kernels.h"
#include "kernels/targets.h"

namespace star::avx2 {

const Kernels float32 = make_kernels<Float32>("avx2 fma");
const Kernels bfloat16 = make_kernels<Bfloat16>("avx2 fma");
const Kernels int8 = make_kernels<Int8Pairs>("avx2 pmaddwd");

}  // namespace star::avx2
