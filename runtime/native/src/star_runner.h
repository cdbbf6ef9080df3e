// Runs STAR over packed clips: which tile is computed when, by whom, into which memory.
//
// A clip is cut into chunks of whole tiles, by its length alone. A pass goes over all chunks of all clips at once, and each
// layer's clip-wide sums are added up chunk by chunk in order: the result depends neither on the batch nor on the threads.
#pragma once

#include <vector>

#include "star_program.h"
#include "thread_pool.h"

namespace star {

class StarRunner : public Runner {
   public:
    StarRunner(std::shared_ptr<const StarProgram> program, int threads);
    int threads() const override { return pool_.size(); }
    void profile(bool on) override;
    const char *stage(int index, double &seconds) const override;
    void run(const float *features, const int64_t *cu_seqlens, int64_t clips, float *logits) override;

   private:
    struct Chunk {
        int64_t clip, first_row, rows;
        int64_t first_tile;  // of all clips' tiles
        int64_t tiles;
        int64_t clip_tile;  // its first tile, counted from the clip's
    };
    struct Clip {
        int64_t rows, first_chunk, chunks;
    };
    /// Memory that grows and never shrinks.
    class Buffer {
       public:
        float *of_size(std::size_t count);

       private:
        AlignedFloats memory_;
        std::size_t size_ = 0;
    };

    void compute(const float *features, const int64_t *cu_seqlens, int64_t clips, float *logits);
    void plan(const int64_t *cu_seqlens, int64_t clips);
    void extend_positions(int64_t tiles);
    float *latent_of(const Chunk &chunk, int64_t tile) const;
    template <class Body>
    void for_each_tile(const Body &body);
    void add_up_states();
    void make_contexts();
    void classify(float *logits);

    const std::shared_ptr<const StarProgram> program_;
    const Kernels &kernels_;
    const Weights &weights_;
    const Shape &shape_;
    ThreadPool pool_;
    std::vector<Scratch> scratch_;  // by thread
    std::vector<Clip> clips_;
    std::vector<Chunk> chunks_;
    std::vector<float> positions_;  // [tile][dim][tile_frames]
    bool profiled_ = false;
    double run_seconds_ = 0;  // of profiled runs
    Buffer tiles_, latents_, chunk_states_, clip_states_, contexts_;
    float *x_ = nullptr, *latent_ = nullptr, *chunk_state_ = nullptr, *clip_state_ = nullptr, *context_ = nullptr;
};

}  // namespace star
