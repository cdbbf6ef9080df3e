// An engine that `star-edge build` made, opened on the machine it was made for.
#pragma once

#include <filesystem>
#include <mutex>

#include "engine_file.h"
#include "program.h"
#include "tensorrt_api.h"

namespace star {

class TensorRtProgram : public Program {
   public:
    TensorRtProgram(const Bundle &bundle, star_precision precision, const std::string &tensorrt, std::vector<Bucket> buckets,
                    std::unique_ptr<TensorRtEngine> engine);
    std::unique_ptr<Runner> make_runner(int threads) const override;

    /// Safe to call from several threads.
    std::unique_ptr<TensorRtContext> make_context(std::size_t bucket, const std::vector<Binding> &bindings,
                                                  cudaStream_t stream) const;

    const std::vector<Bucket> buckets;

   private:
    const std::unique_ptr<TensorRtEngine> engine_;
    mutable std::mutex making_;
};

/// The engine of a precision in a bundle's folder. Throws Error: STAR_IO where there is none, STAR_MISMATCH for one that was
/// not made from this bundle for this machine, STAR_UNSUPPORTED.
std::shared_ptr<const Program> compile_for_tensorrt(const Bundle &bundle, star_precision precision,
                                                    const std::filesystem::path &folder, TensorRt &tensorrt);

}  // namespace star
