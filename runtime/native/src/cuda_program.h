// STAR on an NVIDIA GPU: weights in its memory, as the kernels of runtime/native/cuda want them.
#pragma once

#include <cstdint>
#include <vector>

#include "device_memory.h"
#include "program.h"
#include "star_layered.h"

namespace star {

class CudaProgram : public Program {
   public:
    CudaProgram(const Bundle &bundle, star_precision precision);
    std::unique_ptr<Runner> make_runner(int threads) const override;

    const star_cuda_layered &model() const { return model_; }

   private:
    friend class CudaPacker;

    std::vector<DeviceMemory> memory_;  // that the model points into
    std::vector<uint64_t> neighbours_;
    std::vector<star_cuda_encoder> encoders_;
    star_cuda_layered model_{};
};

/// Throws Error (STAR_UNSUPPORTED) for a model or precision that there are no kernels for, and where there is no GPU.
std::shared_ptr<const Program> compile_for_cuda(const Bundle &bundle, star_precision precision);

/// Whether there is a GPU.
bool has_cuda();

/// As star_products().
const char *cuda_products(star_precision precision);

}  // namespace star
