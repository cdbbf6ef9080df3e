// A model compiled for one precision and instruction set, and the memory and threads to run it with.
//
// Another model family is another Program and Runner behind these two interfaces, made by compile() and make_runner() from its
// bundle's model name; it shares the loader, the linear layers (kernels/linear.h) and the thread pool.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "model.h"
#include "star_edge/star.h"

namespace star {

class Runner;

/// Immutable; shared by runners.
class Program : public std::enable_shared_from_this<Program> {
   public:
    virtual ~Program() = default;
    /// Memory for a caller with so many threads >= 1. Throws std::bad_alloc, std::system_error.
    virtual std::unique_ptr<Runner> make_runner(int threads) const = 0;

    Config config;
    star_precision precision = STAR_PRECISION_FP32;
    star_isa isa = STAR_ISA_PORTABLE;
    std::string products, storage, compute;  // see star_model_info
    std::string unquantised = "fp32";        // what an int8 model multiplies in where it does not in int8
};

/// Packs weights, or opens the engine in the bundle's folder, which is empty for a bundle in memory. Throws Error
/// (STAR_UNSUPPORTED) when the machine or the bundle lacks what is asked for; for an engine STAR_IO and STAR_MISMATCH as well.
std::shared_ptr<const Program> compile(const Bundle &bundle, star_precision precision, star_isa isa,
                                       const std::filesystem::path &folder = {});

/// Memory and threads of one caller.
class Runner {
   public:
    virtual ~Runner() = default;
    virtual int threads() const = 0;
    /// Begins, or ends, to measure where the time of runs goes; what was measured before is dropped.
    virtual void profile(bool) {}
    /// Name of a stage of a run, null beyond the last; seconds: of all threads since profile().
    virtual const char *stage(int /*index*/, double & /*seconds*/) const { return nullptr; }
    /// Logits [clips, K] of features [F, V, C]; arguments were checked. Throws std::bad_alloc.
    virtual void run(const float *features, const int64_t *cu_seqlens, int64_t clips, float *logits) = 0;
};

/// Instruction that multiplies in a precision, see star_products(); null where the instruction set is lacking.
const char *products_of(star_precision precision, star_isa isa);

/// Instruction sets of this build that this processor has, best first, as star_instruction_sets() names them.
const std::string &instruction_sets();

}  // namespace star
