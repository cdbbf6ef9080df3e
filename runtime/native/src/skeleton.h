// The description of a skeleton layout (runtime/skeleton.py), as far as features and the bundle's identity need it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "json.h"

namespace star {

struct Skeleton {
    using Pairs = std::vector<std::pair<int32_t, int32_t>>;

    std::string name;
    std::vector<std::string> joints;
    Pairs bones;  // (child, parent)
    int32_t root = 0;
    Pairs pairs;  // (left, right)
    int32_t dims = 3;

    /// [V]; the root is its own parent.
    std::vector<int32_t> parents() const;
};

/// Throws Malformed unless the layout is a tree with valid indices that hangs from the root.
Skeleton read_skeleton(const Value &value);

/// Pairs [[i, j], ...] of joints, at most every pair there is. Throws Malformed.
Skeleton::Pairs read_pairs(const Value &value, int64_t joints);

}  // namespace star
