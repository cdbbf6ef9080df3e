// The instruction sets of this build, each in a file of its own that is compiled for it.
#pragma once

#include "kernels/kernels.h"

namespace star {

namespace portable {
extern const Kernels float32, bfloat16, int8;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels float32, bfloat16, int8;
}
namespace avx512 {
extern const Kernels float32, bfloat16, int8;
}
namespace avx512_bf16 {
extern const Kernels bfloat16;
}
namespace avx512_vnni {
extern const Kernels int8;
}
#elif defined(__aarch64__)
namespace neon {
extern const Kernels float32, bfloat16, int8;
}
namespace neon_bf16 {
extern const Kernels bfloat16;
}
namespace neon_dotprod {
extern const Kernels int8;
}
#endif

}  // namespace star
