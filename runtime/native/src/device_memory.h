// Memory, streams and errors of a GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "error.h"
#include "message.h"

namespace star {

/// Throws Error for what is none of the caller's doing.
inline void check_cuda(cudaError_t error, const char *what) {
    if (error == cudaSuccess) return;
    const star_status status = error == cudaErrorMemoryAllocation ? STAR_OUT_OF_MEMORY : STAR_INTERNAL;
    throw Error(status, message(std::string(what) + " failed on the GPU", {.found = cudaGetErrorString(error)}));
}

/// Memory that grows and never shrinks.
class DeviceMemory {
   public:
    DeviceMemory() = default;
    explicit DeviceMemory(std::size_t bytes) { of_size(bytes); }
    DeviceMemory(DeviceMemory &&other) noexcept
        : memory_(std::exchange(other.memory_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    DeviceMemory &operator=(DeviceMemory &&other) noexcept {
        std::swap(memory_, other.memory_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~DeviceMemory() { cudaFree(memory_); }

    void *of_size(std::size_t bytes) {
        if (memory_ == nullptr || bytes > bytes_) {
            cudaFree(std::exchange(memory_, nullptr));
            bytes_ = 0;
            check_cuda(cudaMalloc(&memory_, bytes == 0 ? 1 : bytes), "taking memory");
            bytes_ = bytes;
        }
        return memory_;
    }

    void *get() const { return memory_; }

   private:
    void *memory_ = nullptr;
    std::size_t bytes_ = 0;
};

template <class Value>
DeviceMemory copied_to_device(const std::vector<Value> &values) {
    const std::size_t bytes = values.size() * sizeof(Value);
    DeviceMemory memory(bytes);
    check_cuda(cudaMemcpy(memory.get(), values.data(), bytes, cudaMemcpyHostToDevice), "copying weights");
    return memory;
}

class DeviceStream {
   public:
    DeviceStream() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"); }
    DeviceStream(const DeviceStream &) = delete;
    DeviceStream &operator=(const DeviceStream &) = delete;
    ~DeviceStream() { cudaStreamDestroy(stream_); }

    cudaStream_t get() const { return stream_; }

   private:
    cudaStream_t stream_ = nullptr;
};

}  // namespace star
