#include "star_runner.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace star {

namespace {

// A chunk's sums are as large as nine rows of activations, so a chunk has sixteen frames where the clip has them; and a clip
// has no more chunks than many cores can share, so that its sums stay small beside its rows.
constexpr int64_t kChunkFrames = 16, kMostChunks = 64, kChunkGroup = 4;
// floats of a sum over chunks that one part adds up
constexpr std::size_t kSumPart = 4096;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t chunks_of(int64_t tiles, int tile_frames) {
    const int64_t wanted = ceil_div(ceil_div(tiles * tile_frames, kChunkFrames), kChunkGroup) *
                           kChunkGroup;  // whole groups: even on 2 and 4 cores
    return std::min({wanted, kMostChunks, tiles});
}

/// Rows in whole register tiles or vectors of any instruction set.
std::size_t rows_of_blocks(int rows) { return (static_cast<std::size_t>(rows) + 15) / 16 * 16; }

}  // namespace

Scratch::Scratch(const Shape &shape)
    : a(allocate_floats(rows_of_blocks(std::max(3 * shape.dim, shape.channels)) * shape.stride)),
      e(allocate_floats(rows_of_blocks(shape.dim) * shape.stride)),
      b(allocate_floats(rows_of_blocks(shape.dim) * std::max(shape.group_tokens, shape.joints))),
      c(allocate_floats(rows_of_blocks(shape.ffn) * shape.group_tokens)),
      d(allocate_floats(std::max(rows_of_blocks(shape.dim) * shape.group_tokens, rows_of_blocks(shape.tokens)))),
      packed(allocate_floats(
          std::max(rows_of_blocks(shape.dim) * std::max(shape.stride, shape.group_tokens), rows_of_blocks(shape.hidden)))),
      packed_hidden(allocate_floats(rows_of_blocks(shape.ffn) * shape.group_tokens)),
      inner(allocate_floats(rows_of_blocks(shape.rank) * shape.group_tokens)),
      packed_inner(allocate_floats(rows_of_blocks(shape.rank) * shape.group_tokens)),
      rows(allocate_floats(static_cast<std::size_t>(shape.tile_frames) * 2 * shape.padded_dim)),
      hidden(allocate_floats(rows_of_blocks(shape.hidden))),
      logits(allocate_floats(rows_of_blocks(shape.classes))) {}

float *StarRunner::Buffer::of_size(std::size_t count) {
    if (count > size_) {
        memory_.reset();
        size_ = 0;
        memory_ = allocate_floats(count);
        size_ = count;
    }
    return memory_.get();
}

StarRunner::StarRunner(std::shared_ptr<const StarProgram> program, int threads)
    : program_(std::move(program)),
      kernels_(program_->kernels),
      weights_(program_->weights),
      shape_(weights_.shape),
      pool_(threads) {
    for (int thread = 0; thread < threads; thread++) scratch_.emplace_back(shape_);
}

void StarRunner::plan(const int64_t *cu_seqlens, int64_t clips) {
    clips_.clear();
    chunks_.clear();
    int64_t tile = 0, longest = 0;
    for (int64_t clip = 0; clip < clips; clip++) {
        const int64_t first_row = cu_seqlens[clip], rows = cu_seqlens[clip + 1] - first_row;
        const int64_t tiles = ceil_div(rows, shape_.tile_frames), chunks = chunks_of(tiles, shape_.tile_frames);
        clips_.push_back({rows, static_cast<int64_t>(chunks_.size()), chunks});
        for (int64_t chunk = 0, at = 0; chunk < chunks; chunk++) {
            const int64_t count = tiles / chunks + (chunk < tiles % chunks);
            const int64_t row = at * shape_.tile_frames;
            chunks_.push_back({clip, first_row + row, std::min(rows - row, count * shape_.tile_frames), tile + at, count, at});
            at += count;
        }
        tile += tiles;
        longest = std::max(longest, tiles);
    }
    extend_positions(longest);
    x_ = tiles_.of_size(tile * shape_.tile_size());
    latent_ = latents_.of_size(tile * shape_.latent_size());
    chunk_state_ = chunk_states_.of_size(chunks_.size() * shape_.state_size());
    clip_state_ = clip_states_.of_size(clips * shape_.state_size());
    context_ = contexts_.of_size(clips * static_cast<std::size_t>(shape_.joints) * shape_.dim);
}

/// sin((p / 10^4)^(j / dim)) for even channels j, cos for odd ones, 0^0 = 1 (STAR, section 3.3, as the authors' code has it).
void StarRunner::extend_positions(int64_t tiles) {
    const int64_t present = static_cast<int64_t>(positions_.size()) / (shape_.dim * shape_.tile_frames);
    if (tiles <= present) return;
    positions_.resize(tiles * shape_.dim * shape_.tile_frames);
    pool_.run(tiles - present, [&](int64_t part, int) {
        const int64_t tile = present + part;
        float *at = positions_.data() + tile * shape_.dim * shape_.tile_frames;
        for (int frame = 0; frame < shape_.tile_frames; frame++) {
            const double log_position =
                std::log(static_cast<double>(tile * shape_.tile_frames + frame) / 1e4);  // -inf for the first
            for (int j = 0; j < shape_.dim; j++) {
                const double phase = j == 0 ? 1.0 : std::exp(log_position * j / shape_.dim);
                at[j * shape_.tile_frames + frame] = static_cast<float>(j % 2 == 0 ? std::sin(phase) : std::cos(phase));
            }
        }
    });
}

float *StarRunner::latent_of(const Chunk &chunk, int64_t tile) const {
    return latent_ + (chunk.first_tile + tile) * shape_.latent_size();
}

/// body(chunk index, chunk, tile within the chunk, its frames, its activations, thread's scratch)
template <class Body>
void StarRunner::for_each_tile(const Body &body) {
    pool_.run(static_cast<int64_t>(chunks_.size()), [&](int64_t index, int thread) {
        const Chunk &chunk = chunks_[index];
        for (int64_t tile = 0; tile < chunk.tiles; tile++) {
            const int frames = static_cast<int>(std::min<int64_t>(shape_.tile_frames, chunk.rows - tile * shape_.tile_frames));
            body(index, chunk, tile, frames, x_ + (chunk.first_tile + tile) * shape_.tile_size(), scratch_[thread]);
        }
    });
}

/// Each clip's sum over its chunks.
void StarRunner::add_up_states() {
    const std::size_t size = shape_.state_size();
    const int64_t parts = ceil_div(static_cast<int64_t>(size), kSumPart);
    pool_.run(static_cast<int64_t>(clips_.size()) * parts, [&](int64_t part, int thread) {
        const Clip &clip = clips_[part / parts];
        if (clip.chunks == 0) return;
        scratch_[thread].profile.begin();
        const std::size_t first = part % parts * kSumPart, last = std::min(size, first + kSumPart);
        float *sum = clip_state_ + part / parts * size;
        const float *term = chunk_state_ + clip.first_chunk * size;
        std::copy(term + first, term + last, sum + first);
        for (int64_t chunk = 1; chunk < clip.chunks; chunk++) {
            term += size;
            for (std::size_t i = first; i < last; i++) sum[i] += term[i];
        }
        scratch_[thread].profile.end(Stage::sums_of_chunks);
    });
}

/// From the chunks' sums of rows to each clip's context.
void StarRunner::make_contexts() {
    const std::size_t size = static_cast<std::size_t>(shape_.joints) * shape_.dim;
    pool_.run(static_cast<int64_t>(clips_.size()), [&](int64_t index, int thread) {
        const Clip &clip = clips_[index];
        Scratch &scratch = scratch_[thread];
        scratch.profile.begin();
        float *mean = scratch.b.get();
        std::fill_n(mean, size, 0.0f);
        for (int64_t chunk = 0; chunk < clip.chunks; chunk++) {
            const float *term = chunk_state_ + (clip.first_chunk + chunk) * shape_.state_size();
            for (std::size_t i = 0; i < size; i++) mean[i] += term[i];
        }
        for (std::size_t i = 0; i < size; i++) mean[i] /= static_cast<float>(std::max<int64_t>(clip.rows, 1));
        kernels_.context(weights_, mean, context_ + index * size);
        scratch.profile.end(Stage::head);
    });
}

/// From the chunks' gated sums to logits.
void StarRunner::classify(float *logits) {
    const std::size_t size = static_cast<std::size_t>(shape_.joints) * shape_.dim;
    pool_.run(static_cast<int64_t>(clips_.size()), [&](int64_t index, int thread) {
        const Clip &clip = clips_[index];
        Scratch &scratch = scratch_[thread];
        scratch.profile.begin();
        float *pooled = scratch.b.get();
        std::fill_n(pooled, size, 0.0f);
        for (int64_t chunk = 0; chunk < clip.chunks; chunk++) {
            const float *term = chunk_state_ + (clip.first_chunk + chunk) * shape_.state_size();
            for (std::size_t i = 0; i < size; i++) pooled[i] += term[i];
        }
        for (std::size_t i = 0; i < size; i++) pooled[i] /= static_cast<float>(std::max<int64_t>(clip.rows, 1));
        kernels_.head(weights_.head_hidden, pooled, true, scratch.hidden.get(), scratch);
        kernels_.head(weights_.head_output, scratch.hidden.get(), false, scratch.logits.get(), scratch);
        std::copy_n(scratch.logits.get(), shape_.classes, logits + index * shape_.classes);
        scratch.profile.end(Stage::head);
    });
}

void StarRunner::run(const float *features, const int64_t *cu_seqlens, int64_t clips, float *logits) {
    const auto begun = std::chrono::steady_clock::now();
    compute(features, cu_seqlens, clips, logits);
    if (profiled_) run_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

void StarRunner::compute(const float *features, const int64_t *cu_seqlens, int64_t clips, float *logits) {
    plan(cu_seqlens, clips);
    const int64_t row = static_cast<int64_t>(shape_.joints) * shape_.channels;
    for_each_tile([&](int64_t index, const Chunk &chunk, int64_t tile, int frames, float *x, Scratch &scratch) {
        kernels_.embed(weights_, features + (chunk.first_row + tile * shape_.tile_frames) * row, frames,
                       positions_.data() + (chunk.clip_tile + tile) * shape_.dim * shape_.tile_frames, x, scratch);
        kernels_.add_state(weights_, 0, x, frames, tile == 0, chunk_state_ + index * shape_.state_size(),
                           latent_of(chunk, tile), scratch);
    });
    for (int layer = 0; layer < shape_.layers; layer++) {
        add_up_states();
        for_each_tile([&](int64_t index, const Chunk &chunk, int64_t tile, int frames, float *x, Scratch &scratch) {
            float *state = chunk_state_ + index * shape_.state_size(), *latent = latent_of(chunk, tile);
            kernels_.layer(weights_, layer, clip_state_ + chunk.clip * shape_.state_size(), latent, x, scratch);
            if (layer + 1 < shape_.layers) {
                kernels_.add_state(weights_, layer + 1, x, frames, tile == 0, state, latent, scratch);
            } else {
                scratch.profile.begin();
                kernels_.add_mean(shape_, x, frames, tile == 0, state);
                scratch.profile.end(Stage::pooling);
            }
        });
    }
    make_contexts();
    for_each_tile([&](int64_t index, const Chunk &chunk, int64_t tile, int frames, float *x, Scratch &scratch) {
        scratch.profile.begin();
        kernels_.add_gated(shape_, x, context_ + chunk.clip * shape_.joints * shape_.dim, frames, tile == 0,
                           chunk_state_ + index * shape_.state_size());
        scratch.profile.end(Stage::pooling);
    });
    classify(logits);
}

void StarRunner::profile(bool on) {
    profiled_ = on;
    run_seconds_ = 0;
    for (Scratch &scratch : scratch_) scratch.profile.switch_to(on);
}

const char *StarRunner::stage(int index, double &seconds) const {
    if (index < 0 || index > kStages) return nullptr;
    const auto of = [this](int stage) {
        double sum = 0;
        for (const Scratch &scratch : scratch_) sum += scratch.profile.seconds(stage);
        return sum;
    };
    if (index < kStages) {
        seconds = of(index);
        return kStageNames[static_cast<std::size_t>(index)];
    }
    seconds = run_seconds_ * threads();
    for (int stage = 0; stage < kStages; stage++) seconds -= of(stage);
    return "waiting for other threads";
}

}  // namespace star
