// Any processor: one number at a time. What the other instruction sets are tested against.
#define STAR_TARGET portable
#define STAR_SCALAR
#include "kernels/star_kernels.h"
#include "kernels/targets.h"

namespace star::portable {

const Kernels float32 = make_kernels<Float32>("portable");
const Kernels bfloat16 = make_kernels<Bfloat16>("portable");
const Kernels int8 = make_kernels<Int8Pairs>("portable");

}  // namespace star::portable
