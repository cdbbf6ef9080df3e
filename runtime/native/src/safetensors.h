// The safetensors container: a JSON header of names, shapes and places, then the tensors' bytes.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace star {

/// A tensor in the file's bytes, little-endian and perhaps unaligned; its shape's product equals its size.
struct StoredTensor {
    std::string dtype;  // F32 or I64
    std::vector<int64_t> shape;
    std::string_view bytes;
};

/// Tensors of a file by name; they refer to its bytes, fill them and do not overlap. Throws Malformed.
std::map<std::string, StoredTensor> read_safetensors(std::string_view file);

/// "F32 [64, 9]", for messages.
std::string describe(const std::string &dtype, const std::vector<int64_t> &shape);

}  // namespace star
