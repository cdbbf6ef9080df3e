// STAR on an NVIDIA GPU: weights in its memory, as the kernels of runtime/native/cuda want them.
#pragma once

#include <cstdint>
#include <vector>

#include "device_memory.h"
#include "program.h"
#include "star_layered.h"
#include "star_model.h"

namespace star {

class CudaProgram : public Program {
   public:
    CudaProgram(const Bundle &bundle, star_precision precision);
    std::unique_ptr<Runner> make_runner(int threads) const override;

    /// Layer by layer; null where the fused kernels are used.
    const star_cuda_layered *layered() const { return encoders_.empty() ? nullptr : &layered_; }
    /// Of the fused kernels: sizes but frames and clips, and weights.
    const star_cuda_sizes &fused_sizes() const { return sizes_; }
    const star_cuda_weights &fused_weights() const { return weights_; }

   private:
    void pack_fused(const Bundle &bundle);
    void pack_layered(const Bundle &bundle);

    std::vector<DeviceMemory> memory_;  // that the weights lie in
    star_cuda_sizes sizes_{};
    star_cuda_weights weights_{};
    std::vector<uint64_t> neighbours_;
    std::vector<star_cuda_encoder> encoders_;
    star_cuda_layered layered_{};
};

/// Throws Error (STAR_UNSUPPORTED) for a model or precision that there are no kernels for, and where there is no GPU.
std::shared_ptr<const Program> compile_for_cuda(const Bundle &bundle, star_precision precision);

/// Whether there is a GPU.
bool has_cuda();

/// As star_products().
const char *cuda_products(star_precision precision);

}  // namespace star
