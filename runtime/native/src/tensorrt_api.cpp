// TensorRT behind tensorrt_api.h. Its headers are enough to build this; the library is loaded when it is first asked for, so
// that a program with this in it also runs where there is none.
#include "tensorrt_api.h"

#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "error.h"
#include "message.h"

namespace star {

namespace {

const std::string kLibrary = "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);

/// Keeps what TensorRT said of its failures.
class Logger : public nvinfer1::ILogger {
   public:
    void log(Severity severity, const char *text) noexcept override {
        if (severity > Severity::kERROR) return;
        try {
            const std::lock_guard lock(mutex_);
            errors_ += (errors_.empty() ? "" : "; ") + std::string(text);
        } catch (...) {  // the text is not worth more than the failure
        }
    }
    /// What was said since it was asked last.
    std::string reason() {
        const std::lock_guard lock(mutex_);
        const std::string said = std::exchange(errors_, {});
        return said.empty() ? "no reason was given" : said;
    }

   private:
    std::mutex mutex_;
    std::string errors_;
};

void require(bool done, const std::string &what, Logger &logger) {
    if (!done)
        throw Error(STAR_MISMATCH, message("TensorRT cannot " + what, {.found = logger.reason(), .next = "star-edge build"}));
}

nvinfer1::Dims dims_of(const std::vector<int64_t> &shape) {
    nvinfer1::Dims dims{};
    for (const int64_t size : shape) dims.d[dims.nbDims++] = static_cast<decltype(+dims.d[0])>(size);
    return dims;
}

std::vector<int64_t> shape_of(const nvinfer1::Dims &dims) { return {dims.d, dims.d + std::max(dims.nbDims, 0)}; }

std::string name_of(nvinfer1::DataType type) {
    switch (type) {
        case nvinfer1::DataType::kFLOAT:
            return "float32";
        case nvinfer1::DataType::kINT32:
            return "int32";
        default:
            return "type " + std::to_string(static_cast<int>(type));
    }
}

class Context : public TensorRtContext {
   public:
    Context(std::unique_ptr<nvinfer1::IExecutionContext> context, Logger &logger)
        : context_(std::move(context)), logger_(logger) {}
    void enqueue(cudaStream_t stream) override { require(context_->enqueueV3(stream), "run the engine", logger_); }

   private:
    const std::unique_ptr<nvinfer1::IExecutionContext> context_;
    Logger &logger_;
};

class Engine : public TensorRtEngine {
   public:
    Engine(std::unique_ptr<nvinfer1::ICudaEngine> engine, Logger &logger) : engine_(std::move(engine)), logger_(logger) {}

    int profiles() const override { return engine_->getNbOptimizationProfiles(); }

    std::map<std::string, std::string> tensors() const override {
        std::map<std::string, std::string> found;
        for (int32_t index = 0; index < engine_->getNbIOTensors(); index++) {
            const char *name = engine_->getIOTensorName(index);
            found.emplace(name, name_of(engine_->getTensorDataType(name)));
        }
        return found;
    }

    std::vector<int64_t> largest_shape(const std::string &input, int profile) const override {
        return shape_of(engine_->getProfileShape(input.c_str(), profile, nvinfer1::OptProfileSelector::kMAX));
    }

    std::vector<int64_t> shape(const std::string &name) const override {
        return shape_of(engine_->getTensorShape(name.c_str()));
    }

    std::unique_ptr<TensorRtContext> make_context(int profile, const std::vector<Binding> &bindings,
                                                  cudaStream_t stream) override {
        // the memory that this profile takes, not the largest one's
        std::unique_ptr<nvinfer1::IExecutionContext> context(
            engine_->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kON_PROFILE_CHANGE));
        require(context != nullptr, "make a context", logger_);
        require(context->setOptimizationProfileAsync(profile, stream), "choose the profile", logger_);
        for (const Binding &binding : bindings) {
            const char *name = binding.name.c_str();
            if (binding.is_input)
                require(context->setInputShape(name, dims_of(binding.shape)), "set the shape of " + binding.name, logger_);
            require(context->setTensorAddress(name, binding.address), "set the address of " + binding.name, logger_);
        }
        return std::make_unique<Context>(std::move(context), logger_);
    }

   private:
    const std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    Logger &logger_;
};

[[noreturn]] void lacking(const std::string &found) {
    throw Error(STAR_UNSUPPORTED,
                message("TensorRT cannot be loaded",
                        {.found = found, .expected = kLibrary, .next = "on a Jetson: sudo apt-get install nvidia-jetpack"}));
}

class Installed : public TensorRt {
   public:
    Installed() {
        // never unloaded: threads and graphs of it may outlive whatever asked for it
        void *library = dlopen(kLibrary.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (library == nullptr) lacking(dlerror());
        const auto create = function<void *(void *, int32_t)>(library, "createInferRuntime_INTERNAL");
        const int32_t number = function<int32_t()>(library, "getInferLibVersion")();
        version_ = text_of(number);
        runtime_ = static_cast<nvinfer1::IRuntime *>(create(&logger_, NV_TENSORRT_VERSION));
        if (runtime_ == nullptr) lacking(kLibrary + ": " + logger_.reason());
    }

    std::string version() const override { return version_; }

    std::unique_ptr<TensorRtEngine> load(const std::string &plan, const std::filesystem::path &plugins) override {
        load_plugins(plugins);
        std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        require(engine != nullptr, "load the engine", logger_);
        return std::make_unique<Engine>(std::move(engine), logger_);
    }

   private:
    template <class Function>
    static Function *function(void *library, const char *name) {
        auto *found = reinterpret_cast<Function *>(dlsym(library, name));
        if (found == nullptr) lacking(kLibrary + " without " + name);
        return found;
    }

    /// 10300 of TensorRT 10.3.0, as NV_TENSORRT_VERSION is since 10.
    static std::string text_of(int32_t number) {
        return std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." + std::to_string(number % 100);
    }

    /// Once in a process: the registry does not take a plugin twice.
    void load_plugins(const std::filesystem::path &plugins) {
        const std::lock_guard lock(loading_);
        const std::string path = plugins.string();
        if (loaded_.count(path) > 0) return;
        require(runtime_->getPluginRegistry().loadLibrary(path.c_str()) != nullptr,
                "load the plugins in " + path + ": a process takes those of one build alone", logger_);
        loaded_.insert(path);
    }

    Logger logger_;
    std::string version_;
    nvinfer1::IRuntime *runtime_ = nullptr;
    std::mutex loading_;
    std::set<std::string> loaded_;
};

}  // namespace

TensorRt &installed_tensorrt() {
    static Installed *const installed = new Installed;  // as its library, for ever
    return *installed;
}

}  // namespace star
