// A libnvinfer with the runtime's part that the C++ engine calls; everything else that TensorRT has ends the process.
//
// Its one plan is the text "plan": profiles of 4 and 8 rows, logits [clips, 3] of what is in `features` and `cu_seqlens`.
#include <cstring>
#include <map>
#include <string>

#include "stubs.h"  // made from NvInferImpl.h and NvInferRuntimeBase.h: Unused<class>

using namespace nvinfer1;

namespace {

ILogger *logger = nullptr;
std::string loaded;  // plugin libraries
int alive = 0;       // engines and contexts

bool fail(const char *why) {
    logger->log(ILogger::Severity::kWARNING, "a warning");
    logger->log(ILogger::Severity::kERROR, why);
    return false;
}

class Context final : public IExecutionContext, UnusedVExecutionContext {
   public:
    Context() {
        mImpl = this;
        alive++;
    }
    ~Context() override { alive--; }

   private:
    IExecutionContext *getPImpl() noexcept override { return this; }
    bool setOptimizationProfileAsync(int32_t index, cudaStream_t) noexcept override {
        profile_ = index;
        return index < 2 || fail("no such profile");
    }
    bool setInputShape(const char *name, const Dims &dims) noexcept override {
        const bool is_features = std::strcmp(name, "features") == 0;
        if (is_features ? dims.nbDims != 3 || dims.d[0] != 4 << profile_ : dims.nbDims != 1)
            return fail("a shape that is none");
        return true;
    }
    bool setTensorAddress(const char *name, void *address) noexcept override {
        addresses_[name] = address;
        return address != nullptr || fail("no address");
    }
    bool enqueueV3(cudaStream_t) noexcept override {
        if (addresses_.size() != 3) return fail("a tensor without an address");
        const auto *features = static_cast<const float *>(addresses_["features"]);
        const auto *offsets = static_cast<const int32_t *>(addresses_["cu_seqlens"]);
        auto *logits = static_cast<float *>(addresses_["logits"]);
        for (int i = 0; i < 3; i++) logits[i] = features[i] + static_cast<float>(offsets[1]);
        return true;
    }

    int profile_ = -1;
    std::map<std::string, void *> addresses_;
};

class Engine final : public ICudaEngine, UnusedVCudaEngine {
   public:
    Engine() {
        mImpl = this;
        alive++;
    }
    ~Engine() override { alive--; }

   private:
    ICudaEngine *getPImpl() noexcept override { return this; }
    int32_t getNbOptimizationProfiles() const noexcept override { return 2; }
    int32_t getNbIOTensors() const noexcept override { return 3; }
    const char *getIOTensorName(int32_t index) const noexcept override {
        const char *const names[] = {"features", "cu_seqlens", "logits"};
        return names[index];
    }
    DataType getTensorDataType(const char *name) const noexcept override {
        if (std::strcmp(name, "logits") == 0) return DataType::kHALF;
        return std::strcmp(name, "features") == 0 ? DataType::kFLOAT : DataType::kINT32;
    }
    Dims getTensorShape(const char *) const noexcept override { return Dims{2, {-1, 3}}; }
    Dims getProfileShape(const char *name, int32_t profile, OptProfileSelector select) const noexcept override {
        const bool is_largest = select == OptProfileSelector::kMAX;
        if (std::strcmp(name, "features") == 0) return Dims{3, {is_largest ? 4 << profile : 1, 5, 9}};
        return Dims{1, {is_largest ? 2 + profile : 1}};
    }
    IExecutionContext *createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept override {
        return strategy == ExecutionContextAllocationStrategy::kON_PROFILE_CHANGE ? new Context : nullptr;
    }
};

class Registry final : public UnusedIPluginRegistry {
    PluginLibraryHandle loadLibrary(const AsciiChar *path) noexcept override {
        if (std::strcmp(path, "/none") == 0) {
            fail("cannot open /none");
            return nullptr;
        }
        loaded += std::string(path) + ";";
        return this;
    }
} registry;

class Runtime final : public IRuntime, UnusedVRuntime {
   public:
    Runtime() { mImpl = this; }

   private:
    IRuntime *getPImpl() noexcept override { return this; }
    IPluginRegistry &getPluginRegistry() noexcept override { return registry; }
    ICudaEngine *deserializeCudaEngine(const void *blob, std::size_t size) noexcept override {
        if (std::string(static_cast<const char *>(blob), size) == "plan") return new Engine;
        fail("no plan");
        fail("and that is that");
        return nullptr;
    }
};

}  // namespace

extern "C" int32_t getInferLibVersion() noexcept { return NV_TENSORRT_VERSION; }

extern "C" void *createInferRuntime_INTERNAL(void *of, int32_t version) noexcept {
    logger = static_cast<ILogger *>(of);
    return version == NV_TENSORRT_VERSION ? static_cast<IRuntime *>(new Runtime) : nullptr;
}

extern "C" const char *loaded_plugins() { return loaded.c_str(); }

extern "C" int32_t alive_objects() { return alive; }
