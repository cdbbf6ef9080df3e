#include "tensorrt_runner.h"

#include <algorithm>

namespace star {

/// The memory of a bucket, filled up with rows of zeros and empty clips behind a batch, and what runs on it.
struct TensorRtRunner::Execution {
    Execution(const TensorRtProgram &program, std::size_t bucket, cudaStream_t stream)
        : rows(program.buckets[bucket].rows), clips(program.buckets[bucket].clips), config(program.config) {
        features.reserve(feature_count() * sizeof(float));
        cu_seqlens.reserve(offset_count() * sizeof(int32_t));
        logits.reserve(static_cast<std::size_t>(clips * config.classes) * sizeof(float));
        std::fill_n(features.host<float>(), feature_count(), 0.0f);
        std::fill_n(cu_seqlens.host<int32_t>(), offset_count(), 0);
        context = program.make_context(bucket,
                                       {{"features", {rows, config.joints, config.channels}, features.device(), true},
                                        {"cu_seqlens", {clips + 1}, cu_seqlens.device(), true},
                                        {"logits", {clips, config.classes}, logits.device(), false}},
                                       stream);
        upload(stream);
        context->enqueue(stream);  // TensorRT prepares what it cannot while a graph is captured
        check_cuda(cudaStreamSynchronize(stream), "the first run");
        graph = std::make_unique<DeviceGraph>(stream, [&] { context->enqueue(stream); });
    }

    std::size_t feature_count() const { return static_cast<std::size_t>(rows * config.joints * config.channels); }
    std::size_t offset_count() const { return static_cast<std::size_t>(clips) + 1; }

    void upload(cudaStream_t stream) const {
        features.upload(feature_count() * sizeof(float), stream);
        cu_seqlens.upload(offset_count() * sizeof(int32_t), stream);
    }

    const int64_t rows, clips;
    const Config &config;
    Staging features, cu_seqlens, logits;
    int64_t used = 0;  // rows that the last batch wrote
    std::unique_ptr<TensorRtContext> context;
    std::unique_ptr<DeviceGraph> graph;
};

TensorRtRunner::TensorRtRunner(std::shared_ptr<const TensorRtProgram> program)
    : program_(std::move(program)), executions_(program_->buckets.size()) {}

TensorRtRunner::~TensorRtRunner() = default;

void TensorRtRunner::run(const float *features, const int64_t *cu_seqlens, int64_t clips, float *logits) {
    const Config &config = program_->config;
    for (const Part &part : split(program_->buckets, cu_seqlens, clips)) {
        try {
            run_part(execution(part.bucket), features + cu_seqlens[part.first] * config.joints * config.channels,
                     cu_seqlens + part.first, part.last - part.first, logits + part.first * config.classes);
        } catch (...) {
            executions_[part.bucket].reset();  // one that failed is not used again
            throw;
        }
    }
}

TensorRtRunner::Execution &TensorRtRunner::execution(std::size_t bucket) {
    std::unique_ptr<Execution> &found = executions_[bucket];
    if (!found) found = std::make_unique<Execution>(*program_, bucket, stream());
    return *found;
}

void TensorRtRunner::run_part(Execution &execution, const float *features, const int64_t *cu_seqlens, int64_t clips,
                              float *logits) {
    const Config &config = program_->config;
    const int64_t rows = cu_seqlens[clips] - cu_seqlens[0], row = config.joints * config.channels;
    float *to = execution.features.host<float>();
    std::copy_n(features, rows * row, to);
    if (rows < execution.used) std::fill(to + rows * row, to + execution.used * row, 0.0f);
    execution.used = rows;
    auto *offsets = execution.cu_seqlens.host<int32_t>();
    for (int64_t clip = 0; clip <= execution.clips; clip++)
        offsets[clip] = static_cast<int32_t>(cu_seqlens[std::min(clip, clips)] - cu_seqlens[0]);
    const auto classes = static_cast<std::size_t>(clips * config.classes);
    run_and_wait([&] { execution.upload(stream()); }, [&] { execution.graph->launch(stream()); },
                 [&] { execution.logits.download(classes * sizeof(float), stream()); });
    std::copy_n(execution.logits.host<float>(), classes, logits);
}

}  // namespace star
