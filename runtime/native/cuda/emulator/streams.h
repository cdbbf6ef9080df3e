// Streams of the emulator, and what tests look at of them.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace emulator {

/// Does work in its turn on a stream: now, or, while the stream is captured, whenever its graph is launched.
cudaError_t enqueue(cudaStream_t stream, std::function<cudaError_t()> work);

/// Whether the card shares the processor's memory; not so at first.
void set_integrated(bool integrated);

/// So far in this process.
struct Counts {
    int captures, graph_launches, copies;
};
const Counts &counts();

}  // namespace emulator
