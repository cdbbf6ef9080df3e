// What running an engine takes of TensorRT, so that all else is built and tested without it. What fails throws Error.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace star {

/// A tensor in a run: a fixed shape, at a fixed address on the GPU.
struct Binding {
    std::string name;
    std::vector<int64_t> shape;
    void *address;
    bool is_input;
};

/// An execution context in one profile; for one caller at a time.
class TensorRtContext {
   public:
    virtual ~TensorRtContext() = default;
    virtual void enqueue(cudaStream_t stream) = 0;
};

/// A loaded engine. Its contexts must not outlive it.
class TensorRtEngine {
   public:
    virtual ~TensorRtEngine() = default;
    virtual int profiles() const = 0;
    /// Name -> type, e.g. "float32", of each input and output.
    virtual std::map<std::string, std::string> tensors() const = 0;
    /// Largest shape that an input has in a profile.
    virtual std::vector<int64_t> largest_shape(const std::string &input, int profile) const = 0;
    /// Shape of a tensor; -1 where it depends on the batch.
    virtual std::vector<int64_t> shape(const std::string &name) const = 0;
    virtual std::unique_ptr<TensorRtContext> make_context(int profile, const std::vector<Binding> &bindings,
                                                          cudaStream_t stream) = 0;
};

class TensorRt {
   public:
    virtual ~TensorRt() = default;
    /// E.g. 10.3.0.
    virtual std::string version() const = 0;
    /// Engine of a plan whose plugins are in a library, which stays loaded.
    virtual std::unique_ptr<TensorRtEngine> load(const std::string &plan, const std::filesystem::path &plugins) = 0;
};

/// The one that is installed here. Throws Error (STAR_UNSUPPORTED).
TensorRt &installed_tensorrt();

}  // namespace star
