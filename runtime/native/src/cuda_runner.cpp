#include "cuda_runner.h"

#include <algorithm>
#include <limits>
#include <string>

#include "error.h"
#include "message.h"

namespace star {

namespace {

constexpr int64_t kMostClips = 65535;  // of a grid's second side

void check_at_most(const char *what, int64_t found, int64_t most) {
    if (found <= most) return;
    throw Error(STAR_UNSUPPORTED, message(std::string("more ") + what + " in one call than the CUDA kernels take",
                                          {.found = std::to_string(found),
                                           .expected = "at most " + std::to_string(most),
                                           .next = "hand over fewer clips at a time"}));
}

}  // namespace

void CudaRunner::run(const float *features, const int64_t *cu_seqlens, int64_t clips, float *logits) {
    const Config &config = program_->config;
    const int64_t rows = cu_seqlens[clips];
    check_at_most("rows", rows, std::numeric_limits<int32_t>::max() / (config.joints * std::max(config.dim, config.channels)));
    check_at_most("clips", clips, kMostClips);
    offsets_.assign(cu_seqlens, cu_seqlens + clips + 1);
    const std::size_t offset_bytes = offsets_.size() * sizeof(int32_t),
                      feature_bytes = static_cast<std::size_t>(rows * config.joints * config.channels) * sizeof(float),
                      logit_bytes = static_cast<std::size_t>(clips * config.classes) * sizeof(float);
    copy(cu_seqlens_.of_size(offset_bytes), offsets_.data(), offset_bytes, cudaMemcpyHostToDevice);
    copy(features_.of_size(feature_bytes), features, feature_bytes, cudaMemcpyHostToDevice);
    logits_.of_size(logit_bytes);
    check_cuda(launch(static_cast<int32_t>(rows), static_cast<int32_t>(clips)), "a launch");
    copy(logits, logits_.get(), logit_bytes, cudaMemcpyDeviceToHost);
    check_cuda(cudaStreamSynchronize(stream_.get()), "the run");
}

cudaError_t CudaRunner::launch(int32_t frames, int32_t clips) {
    const auto *features = static_cast<const float *>(features_.get());
    const auto *offsets = static_cast<const int32_t *>(cu_seqlens_.get());
    auto *logits = static_cast<float *>(logits_.get());
    if (const star_cuda_layered *model = program_->layered()) {
        void *workspace = workspace_.of_size(star_cuda_layered_workspace(model, frames, clips));
        return star_cuda_layered_run(model, frames, clips, features, offsets, workspace, logits, stream_.get());
    }
    star_cuda_sizes sizes = program_->fused_sizes();
    sizes.frames = std::max(frames, 1);  // room for one at least
    sizes.clips = clips;
    void *workspace = workspace_.of_size(star_cuda_workspace(&sizes));
    return star_cuda_run(&sizes, &program_->fused_weights(), features, offsets, workspace, logits, stream_.get());
}

void CudaRunner::copy(void *to, const void *from, std::size_t bytes, cudaMemcpyKind kind) {
    check_cuda(cudaMemcpyAsync(to, from, bytes, kind, stream_.get()), "a copy");
}

}  // namespace star
