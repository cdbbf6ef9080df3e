// Where the time of a run goes, stage by stage: off unless a context asks for it.
#pragma once

#include <array>
#include <chrono>

namespace star {

enum class Stage {
    embedding,
    state_projection,
    state_sums,
    spatial_projection,
    sparse_attention,
    temporal_projection,
    linear_attention,
    first_norm,
    first_linear,
    second_linear,
    second_norm,
    pooling,
    sums_of_chunks,
    head,
    count
};

inline constexpr int kStages = static_cast<int>(Stage::count);

/// Name of each stage, for people.
inline constexpr std::array<const char *, kStages> kStageNames = {
    "embedding and positions",
    "keys and values of temporal attention",
    "sums of k (x) v",
    "queries, keys and values of spatial attention",
    "sparse attention",
    "queries of temporal attention",
    "linear attention",
    "residual and first LayerNorm",
    "first linear layer and SiLU",
    "second linear layer and residual",
    "second LayerNorm",
    "pooling over frames",
    "sums over chunks",
    "context and head",
};

/// One thread's seconds in each stage.
class Profile {
   public:
    void switch_to(bool on) {
        on_ = on;
        seconds_.fill(0);
    }

    /// What comes now belongs to the stage that ends next.
    void begin() {
        if (on_) last_ = Clock::now();
    }

    /// The stage ends here, and the next one begins.
    void end(Stage stage) {
        if (on_) add(stage);
    }

    double seconds(int stage) const { return seconds_[static_cast<std::size_t>(stage)]; }

   private:
    using Clock = std::chrono::steady_clock;

    [[gnu::noinline, gnu::cold]] void add(Stage stage) {
        const Clock::time_point now = Clock::now();
        seconds_[static_cast<std::size_t>(stage)] += std::chrono::duration<double>(now - last_).count();
        last_ = now;
    }

    bool on_ = false;
    Clock::time_point last_;
    std::array<double, kStages> seconds_{};
};

}  // namespace star
