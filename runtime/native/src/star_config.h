// What the STAR family is (star_edge/models/star.py): its configuration, tensors and modules.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "json.h"
#include "model.h"

namespace star {

/// A matrix of the network: a linear layer, or one of the two factors of a layer of low rank.
struct Matrix {
    std::string path;
    int64_t outputs, inputs;
    bool bias;
};

/// Whether a model's configuration has exactly STAR's fields, some of which may be left out, whatever the variant is named.
bool is_star_config(const Json &config);

/// Whether a STAR configuration is of several networks whose answers are one, which nothing here runs. Throws Malformed.
bool is_ensemble(const Value &config);

/// Configuration with every size within limits that no product of two overflows. Throws Malformed.
Config read_star_config(const Value &config);

/// Name -> shape of every tensor of the state dict that the network needs.
std::map<std::string, std::vector<int64_t>> star_tensors(const Config &config);

/// Every matrix of the network but the context's, which is no layer's.
std::vector<Matrix> star_matrices(const Config &config);

/// Paths of the modules that compute something: those a manifest lists.
std::set<std::string> star_modules(const Config &config);

/// Those an int8 model may quantise: QKV and FFN of every encoder and both head layers, or their factors.
std::set<std::string> star_quantisable_modules(const Config &config);

}  // namespace star
