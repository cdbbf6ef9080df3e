#include "tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "device.h"

namespace conformance {
namespace {

constexpr size_t kBand = 1024;

uint16_t half_of(double value) {
    const auto sign = static_cast<uint16_t>(std::signbit(value) ? 0x8000 : 0);
    int exponent = 0;
    std::frexp(value, &exponent);
    exponent = value == 0 ? -13 : std::max(exponent, -13);  // below are multiples of the smallest half
    const double units = std::nearbyint(std::ldexp(std::fabs(value), 11 - exponent));
    // the bits of consecutive halves are consecutive numbers
    const double bits = (exponent + 13) * 1024.0 + units;
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::min(bits, double{0x7c00})));
}

double value_of(uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    const double magnitude = exponent == 31  ? (fraction != 0 ? NAN : INFINITY)
                             : exponent == 0 ? std::ldexp(fraction, -24)
                                             : std::ldexp(1024 + fraction, exponent - 25);
    return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

template <class Stored, class Convert>
Bytes stored(const std::vector<double> &values, const Convert &convert) {
    Bytes bytes(values.size() * sizeof(Stored));
    for (size_t i = 0; i < values.size(); i++) {
        const Stored one = convert(values[i]);
        std::memcpy(&bytes[i * sizeof one], &one, sizeof one);
    }
    return bytes;
}

template <class Stored, class Convert>
std::vector<double> loaded(const Bytes &bytes, const Convert &convert) {
    std::vector<double> values(bytes.size() / sizeof(Stored));
    for (size_t i = 0; i < values.size(); i++) {
        Stored one;
        std::memcpy(&one, &bytes[i * sizeof one], sizeof one);
        values[i] = convert(one);
    }
    return values;
}

}  // namespace

const char *name_of(Type type) { return type == Type::fp32 ? "fp32" : type == Type::fp16 ? "fp16" : "int8"; }
size_t size_of(Type type) { return type == Type::fp32 ? 4 : type == Type::fp16 ? 2 : 1; }
uint8_t poison_of(Type type) { return type == Type::int8 ? 0x80 : 0xff; }

Bytes encode(const std::vector<double> &values, Type type, float scale) {
    if (type == Type::fp32) return stored<float>(values, [](double value) { return static_cast<float>(value); });
    if (type == Type::fp16) return stored<uint16_t>(values, half_of);
    return stored<int8_t>(values, [scale](double value) {
        return static_cast<int8_t>(std::clamp(std::nearbyint(value / static_cast<double>(scale)), -127.0, 127.0));
    });
}

std::vector<double> decode(const Bytes &bytes, Type type, float scale) {
    if (type == Type::fp32) return loaded<float>(bytes, [](float value) { return static_cast<double>(value); });
    if (type == Type::fp16) return loaded<uint16_t>(bytes, value_of);
    return loaded<int8_t>(bytes, [scale](int8_t level) { return level * static_cast<double>(scale); });
}

Bytes bytes_of(const std::vector<int32_t> &values) {
    Bytes bytes(values.size() * sizeof(int32_t));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

Buffer::Buffer(size_t bytes, uint8_t fill)
    : memory_(static_cast<uint8_t *>(device::allocate(bytes + 2 * kBand))), bytes_(bytes), fill_(fill) {
    const Bytes whole(bytes + 2 * kBand, fill);
    device::write(memory_, whole.data(), whole.size());
}

Buffer::Buffer(Buffer &&other) noexcept : memory_(other.memory_), bytes_(other.bytes_), fill_(other.fill_) {
    other.memory_ = nullptr;
}

Buffer::~Buffer() { device::release(memory_); }

void *Buffer::data() const { return memory_ + kBand; }

void Buffer::write(const Bytes &bytes) { device::write(data(), bytes.data(), bytes.size()); }

void Buffer::poison() { write(Bytes(bytes_, fill_)); }

Bytes Buffer::read() const {
    Bytes bytes(bytes_);
    device::read(bytes.data(), data(), bytes_);
    return bytes;
}

bool Buffer::has_whole_bands() const {
    Bytes whole(bytes_ + 2 * kBand);
    device::read(whole.data(), memory_, whole.size());
    const auto is_whole = [this](uint8_t byte) { return byte == fill_; };
    return std::all_of(whole.begin(), whole.begin() + kBand, is_whole) &&
           std::all_of(whole.end() - kBand, whole.end(), is_whole);
}

}  // namespace conformance
