#include "cuda_runner.h"

#include <algorithm>
#include <limits>
#include <string>

#include "error.h"
#include "message.h"

namespace star {

namespace {

constexpr int64_t kMostClips = 65535;  // of a grid's second side
// A window of a stream has as many rows as persons in each of its frames; a dozen sizes come again and again.
constexpr std::size_t kMostSizes = 16;

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
    const auto row_count = static_cast<int32_t>(rows), clip_count = static_cast<int32_t>(clips);
    reserve(row_count, clip_count);
    const std::size_t numbers = static_cast<std::size_t>(rows * config.joints * config.channels),
                      classes = static_cast<std::size_t>(clips * config.classes);
    std::copy_n(features, numbers, features_.host<float>());
    std::copy_n(cu_seqlens, clips + 1, cu_seqlens_.host<int32_t>());
    run_and_wait(
        [&] {
            cu_seqlens_.upload(static_cast<std::size_t>(clips + 1) * sizeof(int32_t), stream());
            features_.upload(numbers * sizeof(float), stream());
        },
        [&] { compute(row_count, clip_count); }, [&] { logits_.download(classes * sizeof(float), stream()); });
    std::copy_n(logits_.host<float>(), classes, logits);
}

void CudaRunner::reserve(int32_t rows, int32_t clips) {
    if (rows <= most_rows_ && clips <= most_clips_) return;
    sizes_.clear();  // graphs have addresses in them
    rows = std::max(rows, std::exchange(most_rows_, -1));
    clips = std::max(clips, std::exchange(most_clips_, -1));
    const Config &config = program_->config;
    features_.reserve(static_cast<std::size_t>(rows * config.joints * config.channels) * sizeof(float));
    cu_seqlens_.reserve((static_cast<std::size_t>(clips) + 1) * sizeof(int32_t));
    logits_.reserve(static_cast<std::size_t>(clips * config.classes) * sizeof(float));
    workspace_.of_size(workspace_bytes(rows, clips));
    most_rows_ = rows;
    most_clips_ = clips;
}

void CudaRunner::compute(int32_t rows, int32_t clips) {
    const auto known =
        std::find_if(sizes_.begin(), sizes_.end(), [&](const Size &size) { return size.rows == rows && size.clips == clips; });
    if (known == sizes_.end()) {
        launch(rows, clips);
        sizes_.push_front({rows, clips, nullptr});
        if (sizes_.size() > kMostSizes) sizes_.pop_back();
        return;
    }
    sizes_.splice(sizes_.begin(), sizes_, known);
    if (!known->graph) known->graph = std::make_unique<DeviceGraph>(stream(), [&] { launch(rows, clips); });
    known->graph->launch(stream());
}

void CudaRunner::launch(int32_t rows, int32_t clips) {
    const auto *features = static_cast<const float *>(features_.device());
    const auto *offsets = static_cast<const int32_t *>(cu_seqlens_.device());
    auto *logits = static_cast<float *>(logits_.device());
    if (const star_cuda_layered *model = program_->layered()) {
        check_cuda(star_cuda_layered_run(model, rows, clips, features, offsets, workspace_.get(), logits, stream()),
                   "a launch");
        return;
    }
    const star_cuda_sizes sizes = fused_sizes(rows, clips);
    check_cuda(star_cuda_run(&sizes, &program_->fused_weights(), features, offsets, workspace_.get(), logits, stream()),
               "a launch");
}

std::size_t CudaRunner::workspace_bytes(int32_t rows, int32_t clips) const {
    if (const star_cuda_layered *model = program_->layered()) return star_cuda_layered_workspace(model, rows, clips);
    const star_cuda_sizes sizes = fused_sizes(rows, clips);
    return star_cuda_workspace(&sizes);
}

star_cuda_sizes CudaRunner::fused_sizes(int32_t rows, int32_t clips) const {
    star_cuda_sizes sizes = program_->fused_sizes();
    sizes.frames = std::max(rows, 1);  // room for one at least
    sizes.clips = clips;
    return sizes;
}

}  // namespace star
