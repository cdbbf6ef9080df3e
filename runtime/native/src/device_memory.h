// Memory, streams, graphs and errors of a GPU.
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

/// Whether the GPU shares the processor's memory, as Jetson's does.
inline bool shares_memory() {
    int device = 0, integrated = 0;
    check_cuda(cudaGetDevice(&device), "asking for the device");
    check_cuda(cudaDeviceGetAttribute(&integrated, cudaDevAttrIntegrated, device), "asking for the kind of device");
    return integrated != 0;
}

/// Pinned memory of the host and its copy on the GPU: one and the same where the GPU shares the processor's memory. Grows and
/// never shrinks.
class Staging {
   public:
    Staging() = default;
    Staging(const Staging &) = delete;
    Staging &operator=(const Staging &) = delete;
    ~Staging() { cudaFreeHost(host_); }

    /// Makes room for so many bytes, at least; where there was less, what was in it is lost.
    void reserve(std::size_t bytes) {
        if (host_ != nullptr && bytes <= bytes_) return;
        cudaFreeHost(std::exchange(host_, nullptr));
        bytes_ = 0;
        const std::size_t room = bytes == 0 ? 1 : bytes;
        check_cuda(cudaHostAlloc(&host_, room, is_shared_ ? cudaHostAllocMapped : cudaHostAllocDefault),
                   "taking pinned memory");
        if (is_shared_) {
            check_cuda(cudaHostGetDevicePointer(&shared_, host_, 0), "mapping pinned memory");
        } else {
            copy_.of_size(room);
        }
        bytes_ = bytes;
    }

    template <class Value>
    Value *host() const {
        return static_cast<Value *>(host_);
    }
    void *device() const { return is_shared_ ? shared_ : copy_.get(); }

    void upload(std::size_t bytes, cudaStream_t stream) const {
        if (!is_shared_)
            check_cuda(cudaMemcpyAsync(copy_.get(), host_, bytes, cudaMemcpyHostToDevice, stream), "a copy to the GPU");
    }
    void download(std::size_t bytes, cudaStream_t stream) const {
        if (!is_shared_)
            check_cuda(cudaMemcpyAsync(host_, copy_.get(), bytes, cudaMemcpyDeviceToHost, stream), "a copy from the GPU");
    }

   private:
    const bool is_shared_ = shares_memory();
    void *host_ = nullptr, *shared_ = nullptr;  // shared: as the GPU addresses it
    DeviceMemory copy_;
    std::size_t bytes_ = 0;
};

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

class DeviceEvent {
   public:
    DeviceEvent() { check_cuda(cudaEventCreate(&event_), "making an event"); }
    DeviceEvent(const DeviceEvent &) = delete;
    DeviceEvent &operator=(const DeviceEvent &) = delete;
    ~DeviceEvent() { cudaEventDestroy(event_); }

    void record(cudaStream_t stream) const { check_cuda(cudaEventRecord(event_, stream), "recording an event"); }
    /// Time to a later event; both have passed.
    double seconds_to(const DeviceEvent &later) const {
        float milliseconds = 0;
        check_cuda(cudaEventElapsedTime(&milliseconds, event_, later.event_), "reading an event");
        return static_cast<double>(milliseconds) / 1e3;
    }

   private:
    cudaEvent_t event_ = nullptr;
};

/// What was put on a stream once, to do again by one call.
class DeviceGraph {
   public:
    /// Captures what `enqueue` puts on the stream; it is not done meanwhile.
    template <class Enqueue>
    DeviceGraph(cudaStream_t stream, const Enqueue &enqueue) {
        cudaGraph_t graph = nullptr;
        check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "beginning a graph");
        try {
            enqueue();
        } catch (...) {
            if (cudaStreamEndCapture(stream, &graph) == cudaSuccess) cudaGraphDestroy(graph);
            throw;
        }
        check_cuda(cudaStreamEndCapture(stream, &graph), "ending a graph");
        const cudaError_t error = cudaGraphInstantiate(&graph_, graph, 0);
        cudaGraphDestroy(graph);
        check_cuda(error, "making a graph");
    }
    DeviceGraph(const DeviceGraph &) = delete;
    DeviceGraph &operator=(const DeviceGraph &) = delete;
    ~DeviceGraph() { cudaGraphExecDestroy(graph_); }

    void launch(cudaStream_t stream) const { check_cuda(cudaGraphLaunch(graph_, stream), "launching a graph"); }

   private:
    cudaGraphExec_t graph_ = nullptr;
};

}  // namespace star
