// Runs STAR on an NVIDIA GPU; features come from the host's memory and logits go there.
#pragma once

#include <vector>

#include "cuda_program.h"

namespace star {

class CudaRunner : public Runner {
   public:
    explicit CudaRunner(std::shared_ptr<const CudaProgram> program) : program_(std::move(program)) {}
    /// The host's: one, which waits for the GPU.
    int threads() const override { return 1; }
    void run(const float *features, const int64_t *cu_seqlens, int64_t clips, float *logits) override;

   private:
    cudaError_t launch(int32_t frames, int32_t clips);
    void copy(void *to, const void *from, std::size_t bytes, cudaMemcpyKind kind);

    const std::shared_ptr<const CudaProgram> program_;
    const DeviceStream stream_;
    std::vector<int32_t> offsets_;
    DeviceMemory features_, cu_seqlens_, workspace_, logits_;
};

}  // namespace star
