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

/// Whether a model's configuration has exactly STAR's fields and no matrix of low rank, whatever the variant is named.
bool is_star_config(const Json &config);

/// Configuration with every size within limits that no product of two overflows. Throws Malformed.
Config read_star_config(const Value &config);

/// Name -> shape of every tensor of the state dict that the network needs.
std::map<std::string, std::vector<int64_t>> star_tensors(const Config &config);

/// Paths of the modules that compute something: those a manifest lists.
std::set<std::string> star_modules(const Config &config);

/// Those an int8 model may quantise: QKV and FFN of every encoder and both head layers.
std::set<std::string> star_quantisable_modules(const Config &config);

}  // namespace star
