// Runs STAR on an NVIDIA GPU; features come from the host's memory and logits go there.
#pragma once

#include <list>
#include <memory>

#include "cuda_program.h"
#include "gpu_runner.h"

namespace star {

class CudaRunner : public GpuRunner {
   public:
    explicit CudaRunner(std::shared_ptr<const CudaProgram> program) : program_(std::move(program)) {}
    void run(const float *features, const int64_t *cu_seqlens, int64_t clips, float *logits) override;

   private:
    /// A size of batches that was run, with its graph once it came again.
    struct Size {
        int32_t rows, clips;
        std::unique_ptr<DeviceGraph> graph;
    };

    void reserve(int32_t rows, int32_t clips);
    void compute(int32_t rows, int32_t clips);
    void launch(int32_t rows, int32_t clips);
    std::size_t workspace_bytes(int32_t rows, int32_t clips) const;
    star_cuda_sizes fused_sizes(int32_t rows, int32_t clips) const;

    const std::shared_ptr<const CudaProgram> program_;
    Staging features_, cu_seqlens_, logits_;
    DeviceMemory workspace_;
    int32_t most_rows_ = -1, most_clips_ = -1;  // that there is memory for
    std::list<Size> sizes_;                     // the last one first
};

}  // namespace star
