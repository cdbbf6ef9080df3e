// calibration.json: the ranges that int8 scales are made from (runtime/calibration_table.py).
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace star {

struct CalibrationTable {
    std::string weights_sha256;           // of the weights.safetensors the ranges belong to
    std::map<std::string, float> ranges;  // calibration key -> amax > 0, finite
};

/// Throws Error: STAR_BAD_FILE, or STAR_MISMATCH for a newer schema.
CalibrationTable parse_calibration(std::string_view text, const std::string &where);

}  // namespace star
