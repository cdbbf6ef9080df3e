#include "streams.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

using Work = std::vector<std::function<cudaError_t()>>;

struct CUgraph_st {
    Work work;
};
struct CUgraphExec_st {
    Work work;
};
struct CUstream_st {
    CUgraph_st *captured = nullptr;
};
struct CUevent_st {
    std::chrono::steady_clock::time_point time;
};

namespace {

std::atomic<bool> is_integrated = false;
thread_local int captures = 0;  // that this thread has begun and not ended
emulator::Counts done{};

/// CUDA ends a capture where the thread that captures does what cannot be captured.
bool must_not_wait() { return captures > 0; }

cudaError_t run(const Work &work) {
    for (const auto &step : work)
        if (const cudaError_t error = step()) return error;
    return cudaSuccess;
}

cudaError_t allocate(void **memory, size_t bytes) {
    *memory = nullptr;
    if (must_not_wait()) return cudaErrorStreamCaptureUnsupported;
    if (bytes == 0) return cudaSuccess;
    if (bytes > size_t{1} << 40 || posix_memalign(memory, 256, bytes) != 0) return cudaErrorMemoryAllocation;
    std::memset(*memory, 0xff, bytes);
    return cudaSuccess;
}

}  // namespace

namespace emulator {

cudaError_t enqueue(cudaStream_t stream, std::function<cudaError_t()> work) {
    if (stream == nullptr || stream->captured == nullptr) return work();
    stream->captured->work.push_back(std::move(work));
    return cudaSuccess;
}

void set_integrated(bool integrated) { is_integrated = integrated; }

const Counts &counts() { return done; }

}  // namespace emulator

const char *cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "an emulated CUDA error"; }

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
    switch (attribute) {
        case cudaDevAttrMultiProcessorCount:
            *value = 2;
            break;
        case cudaDevAttrIntegrated:
            *value = is_integrated;
            break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = 227 * 1024;
    }
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int) {
    *properties = {"emulated GPU", 8, 7, 2, is_integrated};
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **memory, size_t bytes) { return allocate(memory, bytes); }

cudaError_t cudaFree(void *memory) {
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned) { return allocate(memory, bytes); }

cudaError_t cudaFreeHost(void *memory) { return cudaFree(memory); }

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned) {
    *device = host;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    return emulator::enqueue(stream, [=] {
        if (bytes > 0) std::memcpy(to, from, bytes);
        done.copies++;
        return cudaSuccess;
    });
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    return must_not_wait() ? cudaErrorStreamCaptureUnsupported : cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    *stream = new CUstream_st;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return must_not_wait() ? cudaErrorStreamCaptureUnsupported : cudaSuccess; }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (stream == nullptr) return cudaErrorStreamCaptureUnsupported;
    if (stream->captured != nullptr) return cudaErrorIllegalState;
    stream->captured = new CUgraph_st;
    captures++;
    done.captures++;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    *graph = std::exchange(stream->captured, nullptr);
    if (*graph == nullptr) return cudaErrorIllegalState;
    captures--;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long) {
    *executable = new CUgraphExec_st{graph->work};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    done.graph_launches++;
    return emulator::enqueue(stream, [executable] { return run(executable->work); });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    delete executable;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    *event = new CUevent_st{};
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
    event->time = std::chrono::steady_clock::now();
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}
