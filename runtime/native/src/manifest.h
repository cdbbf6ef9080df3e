// manifest.json: what a bundle holds, under which hashes, and what its numbers mean (runtime/manifest.py).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"
#include "skeleton.h"

namespace star {

constexpr const char *kManifest = "manifest.json";
constexpr const char *kWeights = "weights.safetensors";
constexpr const char *kCalibration = "calibration.json";

/// One file of the bundle: path is a plain file name inside it.
struct FileEntry {
    std::string path;
    uint64_t bytes = 0;
    std::string sha256;
};

struct Manifest {
    std::string model_name;
    Json model_config;
    Skeleton skeleton;
    int32_t channels = 9;
    bool centre = true;
    std::vector<std::string> class_names;
    std::string default_precision;
    std::map<std::string, std::string> int8_nodes;  // module path -> precision, of the int8 model
    std::map<std::string, FileEntry> files;         // by logical name
    std::string bundle_id;

    bool has(const std::string &name) const { return files.count(name) > 0; }
};

/// What bundle_id must be: SHA-256 over models, weights, calibration and whatever else can change an answer, as
/// runtime/manifest.py makes it. Throws Malformed.
std::string identity_of(const Json &manifest);

/// Throws Error: STAR_BAD_FILE, or STAR_MISMATCH for a newer schema and for a bundle_id that does not fit the content.
Manifest parse_manifest(std::string_view text, const std::string &where);

}  // namespace star
