// A model with the memory and threads to run it: from joints to logits.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bundle_files.h"
#include "golden.h"
#include "handles.h"
#include "readers/clips.h"

namespace star::tools {

/// How a model is to be opened.
struct Opening {
    star_precision precision = STAR_PRECISION_DEFAULT;
    star_isa isa = STAR_ISA_AUTO;
    int32_t threads = 0;  // 0: all cores
};

/// Features of clips, one after the other.
struct Packed {
    std::vector<float> features;            // [F, V, C]
    std::vector<int64_t> cu_seqlens = {0};  // [B+1]

    int64_t clips() const { return static_cast<int64_t>(cu_seqlens.size()) - 1; }
    int64_t rows() const { return cu_seqlens.back(); }
};

/// Golden clips run: the largest error relative to the largest logit, and the one allowed.
struct SelfTest {
    int64_t clips;
    double error, tolerance;
};

/// Time of repeated runs from features to logits; p90 and p99 are times really seen.
struct Bench {
    int64_t clips, frames, calls;
    double median_ms, p90_ms, p99_ms;
};

/// Share of a stage in the time of all threads.
struct StageShare {
    std::string name;
    double share;
};

class Recognizer {
   public:
    Recognizer(const BundleFiles &bundle, const Opening &opening);

    const star_model_info &info() const { return info_; }
    int32_t threads() const { return star_context_threads(context_.get()); }
    star_context *context() const { return context_.get(); }
    std::string class_name(int64_t index) const { return star_model_class_name(model_.get(), index); }
    /// Name of the precision that runs, e.g. fp16.
    std::string precision() const;
    /// Precision a module is computed in; empty for no such module.
    std::string module_precision(const std::string &module) const;
    /// One line of what runs, e.g. native fp32, libstar_edge 0.1.0, avx2 fma, 2 threads.
    std::string describe() const;
    /// Library and instructions, e.g. libstar_edge 0.1.0, avx2 fma.
    std::string provider() const;

    /// Throws Failure unless the clips of a recording have the bundle's joints.
    void check(const Recording &recording) const;
    /// Throws Failure unless the logits [K] of what is named are finite.
    void check_finite(std::span<const float> logits, const std::string &where) const;
    /// Logits [B, K] of all clips of all recordings, all finite.
    std::vector<float> logits(std::span<const Recording> recordings);
    /// Throws Failure (gate missed) unless the golden clips' logits are within the tolerance of the precision.
    SelfTest self_test(const Golden &golden, const std::string &bundle);
    /// Repeats one run of all clips for so long.
    Bench bench(std::span<const Recording> recordings, double seconds);
    /// Repeats one run of all clips for so long: where its time goes, largest share first.
    std::vector<StageShare> profile(std::span<const Recording> recordings, double seconds);

   private:
    void append(const Recording &recording, const Clip &clip, Packed &packed) const;
    Packed pack(std::span<const Recording> recordings) const;
    void run(const Packed &packed, float *logits) const;

    Model model_;
    Context context_;
    star_model_info info_{};
};

/// The K probabilities that logits [K] stand for.
std::vector<double> softmax(std::span<const float> logits);

/// Index of the largest logit, the first of equal ones.
int64_t best_of(std::span<const float> logits);

}  // namespace star::tools
