// golden.npz of a bundle: generated clips with the fp32 logits every engine must reproduce (runtime/golden.py).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace star::tools {

/// Clips, the logits of the fp32 reference, and how close an engine must come.
struct Golden {
    int64_t joint_count = 0, clips = 0, persons = 0, classes = 0;
    std::vector<float> joints;                 // [F, V, 3]
    std::vector<int64_t> cu_seqlens;           // [B+1]
    std::vector<int64_t> person_lengths;       // [B, P], zeros for absent persons
    std::vector<float> logits;                 // [B, K]
    std::map<std::string, double> tolerances;  // precision -> error allowed relative to the largest |logit|

    /// Throws Failure; where stands in messages.
    static Golden parse(std::string_view bytes, const std::string &where);
};

/// max|logits - reference| / max|reference|; infinite when a logit is not finite.
double relative_error(const std::vector<float> &logits, const std::vector<float> &reference);

}  // namespace star::tools
