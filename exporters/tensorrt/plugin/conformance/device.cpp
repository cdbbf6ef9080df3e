#include "device.h"

#include <memory>
#include <stdexcept>

namespace conformance::device {
namespace {

void expect(cudaError_t error, const char *what) {
    if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

}  // namespace

std::string problem() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    return error != cudaSuccess ? cudaGetErrorString(error) : count == 0 ? "no GPU" : "";
}

std::string name() {
    cudaDeviceProp properties;
    expect(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    return std::string(properties.name) + ", compute capability " + std::to_string(properties.major) + "." +
           std::to_string(properties.minor);
}

void *allocate(size_t bytes) {
    void *memory = nullptr;
    expect(cudaMalloc(&memory, bytes), "cudaMalloc");
    return memory;
}
void release(void *memory) noexcept { cudaFree(memory); }
void write(void *to, const void *from, size_t bytes) {
    expect(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "cudaMemcpy");
    expect(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");  // a copy from pageable memory may be under way still
}
void read(void *to, const void *from, size_t bytes) { expect(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "cudaMemcpy"); }

Stream::Stream() { expect(cudaStreamCreateWithFlags(&self, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
Stream::~Stream() { cudaStreamDestroy(self); }
void Stream::synchronize() const { expect(cudaStreamSynchronize(self), "cudaStreamSynchronize"); }

std::function<void()> capture(const Stream &stream, const std::function<int32_t()> &enqueue) {
    expect(cudaStreamBeginCapture(stream.self, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
    const int32_t status = enqueue();
    cudaGraph_t graph = nullptr;
    expect(cudaStreamEndCapture(stream.self, &graph), "cudaStreamEndCapture");
    const std::unique_ptr<CUgraph_st, cudaError_t (*)(cudaGraph_t)> own_graph(graph, cudaGraphDestroy);
    if (status != 0) throw std::runtime_error("enqueue returned " + std::to_string(status) + " while it was captured");
    cudaGraphExec_t executable = nullptr;
    expect(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    const std::shared_ptr<CUgraphExec_st> own(executable, cudaGraphExecDestroy);
    return [own, &stream] {
        expect(cudaGraphLaunch(own.get(), stream.self), "cudaGraphLaunch");
        stream.synchronize();
    };
}

}  // namespace conformance::device
