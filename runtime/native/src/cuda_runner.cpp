#include "cuda_runner.h"

#include <algorithm>
#include <limits>
#include <string>

#include "error.h"
#include "message.h"

namespace star {

namespace {

/// The kernels count four channels as one, in 31 bits.
void check_size(const Config &config, int64_t rows, int64_t clips) {
    const int64_t most = std::numeric_limits<int32_t>::max() / (config.joints * std::max(config.dim, config.channels));
    if (rows <= most && clips <= most) return;
    throw Error(STAR_UNSUPPORTED, message("more rows or clips in one call than the CUDA kernels take",
                                          {.found = std::to_string(std::max(rows, clips)),
                                           .expected = "at most " + std::to_string(most),
                                           .next = "hand over fewer clips at a time"}));
}

}  // namespace

void CudaRunner::run(const float *features, const int64_t *cu_seqlens, int64_t clips, float *logits) {
    const Config &config = program_->config;
    const star_cuda_layered &model = program_->model();
    const int64_t rows = cu_seqlens[clips];
    check_size(config, rows, clips);
    offsets_.assign(cu_seqlens, cu_seqlens + clips + 1);
    const std::size_t offset_bytes = offsets_.size() * sizeof(int32_t),
                      feature_bytes = static_cast<std::size_t>(rows * config.joints * config.channels) * sizeof(float),
                      logit_bytes = static_cast<std::size_t>(clips * config.classes) * sizeof(float);
    const auto frames = static_cast<int32_t>(rows), batch = static_cast<int32_t>(clips);
    auto *on_features = static_cast<float *>(features_.of_size(feature_bytes));
    auto *on_offsets = static_cast<int32_t *>(cu_seqlens_.of_size(offset_bytes));
    auto *on_logits = static_cast<float *>(logits_.of_size(logit_bytes));
    void *workspace = workspace_.of_size(star_cuda_layered_workspace(&model, frames, batch));
    const cudaStream_t stream = stream_.get();
    const auto copy = [&](void *to, const void *from, std::size_t bytes, cudaMemcpyKind kind) {
        check_cuda(cudaMemcpyAsync(to, from, bytes, kind, stream), "a copy");
    };
    copy(on_offsets, offsets_.data(), offset_bytes, cudaMemcpyHostToDevice);
    copy(on_features, features, feature_bytes, cudaMemcpyHostToDevice);
    check_cuda(star_cuda_layered_run(&model, frames, batch, on_features, on_offsets, workspace, on_logits, stream),
               "a launch");
    copy(logits, on_logits, logit_bytes, cudaMemcpyDeviceToHost);
    check_cuda(cudaStreamSynchronize(stream), "the run");
}

}  // namespace star
