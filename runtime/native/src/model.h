// What a bundle says about its network: checked once by the reader, trusted by everything behind it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace star {

/// Shape of a STAR model (star_edge/models/star.py).
struct Config {
    int64_t joints = 0, channels = 0, classes = 0;
    std::vector<std::pair<int32_t, int32_t>> edges;  // attention pairs (i, j) of the spatial branch
    int64_t dim = 0, heads = 0, layers = 0, hidden = 0;
    std::map<std::string, int64_t> widths;  // path of an encoder's linear1 -> its outputs, where they are not dim
    std::map<std::string, int64_t> ranks;   // path of a linear layer -> rank of the two factors that stand for it
};

/// Layout and recipe that features are made by (runtime/skeleton.py, runtime/features.py).
struct FeatureRecipe {
    std::vector<int32_t> parents;  // [V]; the root is its own
    int32_t root = 0;
    int32_t dims = 3;      // 3: x, y, z; 2: x, y, score
    int32_t channels = 9;  // 3: positions; 9: positions, bones, motion
    bool centre = true;
};

/// A row-major float32 tensor of the state dict.
struct Tensor {
    std::vector<int64_t> shape;
    std::vector<float> data;
};

/// Everything a model is compiled from. The reader has checked that every tensor the configuration needs is here with its
/// shape and finite, and that every quantised module has a range above zero.
struct Bundle {
    std::string model_name, bundle_id, default_precision;
    Config config;
    FeatureRecipe features;
    std::vector<std::string> class_names;
    std::map<std::string, Tensor> weights;
    std::map<std::string, float> ranges;  // calibration key -> amax; empty without calibration
    std::set<std::string> quantised;      // modules that int8 multiplies in int8; empty without an int8 model
};

}  // namespace star
