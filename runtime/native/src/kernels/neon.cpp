// aarch64.
#define STAR_TARGET neon
#include "kernels/star_kernels.h"
#include "kernels/targets.h"

namespace star::neon {

const Kernels float32 = make_kernels<Float32>("neon fmla");
const Kernels bfloat16 = make_kernels<Bfloat16>("neon fmla");
const Kernels int8 = make_kernels<Int8Pairs>("neon");

}  // namespace star::neon
