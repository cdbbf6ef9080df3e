// Reads a bundle: manifest, weights and calibration, all checked, into what a model is compiled from.
//
// Nothing read here is trusted: every size is checked before memory is taken for it, and what does not fit is refused with an
// Error that names the file, what was found, what was expected and the next step.
#pragma once

#include <filesystem>
#include <string_view>

#include "model.h"

namespace star {

/// Bytes of a bundle's files; calibration is empty where there is none.
struct BundleBytes {
    std::string_view manifest, weights, calibration;
};

/// Bundle of files that are in memory and whose hashes were compared with the manifest's; sizes and bundle_id are compared
/// here. Throws Error (STAR_BAD_FILE, STAR_MISMATCH, STAR_UNSUPPORTED), std::bad_alloc.
Bundle parse_bundle(const BundleBytes &bytes);

/// Bundle in a folder NAME.star. Reads and hashes the manifest, weights and calibration alone: models of other engines and the
/// golden clips may be absent. Throws Error (STAR_IO as well), std::bad_alloc.
Bundle read_bundle(const std::filesystem::path &folder);

}  // namespace star
