// Memory and streams that plugins work in: CUDA's, or the emulator's.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <string>

namespace conformance::device {

/// Why nothing can be enqueued here; nothing where it can.
std::string problem();
/// What plugins run on.
std::string name();

/// Aligned to 256 bytes. These throw std::runtime_error where the device fails.
void *allocate(size_t bytes);
void release(void *memory) noexcept;
void write(void *to, const void *from, size_t bytes);
void read(void *to, const void *from, size_t bytes);

class Stream {
   public:
    Stream();
    ~Stream();
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;
    void synchronize() const;
    cudaStream_t self = nullptr;
};

/// Captures a call into a graph, so that a call that allocates or waits fails; returns what replays it and waits.
std::function<void()> capture(const Stream &stream, const std::function<int32_t()> &enqueue);

}  // namespace conformance::device
