// Tensors: how values are stored, and memory that shows who writes where he may not.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace conformance {

enum class Type { fp32, fp16, int8 };

const char *name_of(Type type);
size_t size_of(Type type);

using Bytes = std::vector<uint8_t>;

/// Values in a type, rounded to the nearest, ties to even; `scale` is int8's.
Bytes encode(const std::vector<double> &values, Type type, float scale);
/// What is stored; of int8 the levels times the scale.
std::vector<double> decode(const Bytes &bytes, Type type, float scale);
/// A byte that no result is made of: NaN in floats, the level -128.
uint8_t poison_of(Type type);

Bytes bytes_of(const std::vector<int32_t> &values);

/// Device memory between two bands that nothing may write; filled with a byte, as the bands are.
class Buffer {
   public:
    Buffer(size_t bytes, uint8_t fill);
    Buffer(Buffer &&other) noexcept;
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    ~Buffer();

    void *data() const;
    void write(const Bytes &bytes);
    void poison();
    Bytes read() const;
    bool has_whole_bands() const;

   private:
    uint8_t *memory_;
    size_t bytes_;
    uint8_t fill_;
};

}  // namespace conformance
