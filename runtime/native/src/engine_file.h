// TensorRT engines of a bundle's folder: engines/<name>.json says of <name>.engine what it was made of, and for which machine
// (runtime/tensorrt/sidecar.py).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace star {

/// Most rows and clips of a batch.
struct Bucket {
    int64_t rows, clips;
};

/// Clips first to last (not included) of a batch, and the index of the bucket they run in.
struct Part {
    int64_t first, last;
    std::size_t bucket;
};

/// A GPU as CUDA tells of it; sm: compute capability, 87. A power mode can switch multiprocessors off.
struct Gpu {
    std::string name;
    int64_t sm = 0, multiprocessors = 0;
    bool integrated = false;

    bool operator==(const Gpu &) const = default;
};

/// A description that was read and holds in itself.
struct EngineFile {
    std::filesystem::path where;
    std::string bundle_id, precision, tensorrt;
    Gpu gpu;
    std::string plugin_key, plugin_sha256, engine_sha256;
    std::vector<Bucket> buckets;  // ascending, one a profile of the engine
};

/// What an engine meets where it is opened.
struct Here {
    std::filesystem::path bundle;  // its folder
    std::string bundle_id, precision, tensorrt;
    Gpu gpu;
    std::string engine_sha256;  // of the engine's file as it is
    std::string plugin_sha256;  // empty where there is no plugin library
};

/// Throws Error (STAR_BAD_FILE, STAR_MISMATCH).
EngineFile parse_engine_file(std::string_view text, const std::filesystem::path &where);

/// The description of the engine for this machine, or of another one of the precision, whose refusal then says what differs.
/// Throws Error (STAR_IO as well).
EngineFile find_engine_file(const std::filesystem::path &bundle, const std::string &tensorrt, int64_t sm,
                            const std::string &precision);

/// Bytes of the engine. Throws Error (STAR_IO).
std::string read_plan(const EngineFile &file);

/// Where star-edge keeps the plugin library of a key (runtime/tensorrt/installation.py).
std::filesystem::path plugin_path(const std::string &key);

/// Its hash; empty where there is none.
std::string plugin_sha256(const std::string &key);

/// Throws Error (STAR_MISMATCH) with the first thing in which an engine is not made for what is here.
void require_compatible(const EngineFile &made, const Here &here);

/// Cuts a batch into as few runs of neighbouring clips as the buckets hold. Throws Error (STAR_UNSUPPORTED) where a clip fits
/// none.
std::vector<Part> split(const std::vector<Bucket> &buckets, const int64_t *cu_seqlens, int64_t clips);

}  // namespace star
