#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "device.h"

namespace conformance::device {

const bool kHasStreams = false;

std::string problem() { return ""; }
std::string name() { return "the processor, with emulated kernels"; }

void *allocate(size_t bytes) {
    void *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (memory == nullptr) throw std::runtime_error("no memory");
    return memory;
}
void release(void *memory) noexcept { std::free(memory); }
void write(void *to, const void *from, size_t bytes) {
    std::copy_n(static_cast<const char *>(from), bytes, static_cast<char *>(to));
}
void read(void *to, const void *from, size_t bytes) { write(to, from, bytes); }

Stream::Stream() = default;
Stream::~Stream() = default;
void Stream::synchronize() const {}

std::function<void()> capture(const Stream &, const std::function<int32_t()> &) {
    throw std::runtime_error("emulated kernels have no graphs");
}

}  // namespace conformance::device
