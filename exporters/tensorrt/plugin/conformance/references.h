// The ops in float64, row by row from their equations.
#pragma once

#include <cstdint>
#include <vector>

namespace conformance {

using Values = std::vector<double>;

struct Dimensions {
    int64_t frames, joints, channels, heads;
};

/// x [F, V, C]; rows behind the last clip stay as they are.
Values positions(const Dimensions &size, const Values &x, const std::vector<int32_t> &cu_seqlens);
/// qkv [F, V, 3C] -> [F, V, C]; edges are flattened pairs.
Values sparse_attention(const Dimensions &size, const Values &qkv, const std::vector<int32_t> &edges);
/// qkv [F, V, 3C] -> [F, V, C]; rows behind the last clip are 0.
Values linear_attention(const Dimensions &size, const Values &qkv, const std::vector<int32_t> &cu_seqlens, double eps);
/// x [F, V, C], weight [C, C] -> [B, V, C].
Values context_attention(const Dimensions &size, const Values &x, const Values &weight,
                         const std::vector<int32_t> &cu_seqlens);

}  // namespace conformance
