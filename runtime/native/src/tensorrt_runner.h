// Runs a TensorRT engine: each bucket with a context, memory and a CUDA graph of its own, made when it is first needed.
#pragma once

#include <memory>
#include <vector>

#include "gpu_runner.h"
#include "tensorrt_program.h"

namespace star {

class TensorRtRunner : public GpuRunner {
   public:
    explicit TensorRtRunner(std::shared_ptr<const TensorRtProgram> program);
    ~TensorRtRunner() override;
    void run(const float *features, const int64_t *cu_seqlens, int64_t clips, float *logits) override;

   private:
    struct Execution;

    Execution &execution(std::size_t bucket);
    void run_part(Execution &execution, const float *features, const int64_t *cu_seqlens, int64_t clips, float *logits);

    const std::shared_ptr<const TensorRtProgram> program_;
    std::vector<std::unique_ptr<Execution>> executions_;  // by bucket
};

}  // namespace star
