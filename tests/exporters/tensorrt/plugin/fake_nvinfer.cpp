// A libnvinfer that has a plugin registry and nothing else, to see what registers itself in it.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <string>

namespace {

using nvinfer1::AsciiChar;
using nvinfer1::IPluginCreatorInterface;

class Registry final : public nvinfer1::IPluginRegistry {
   public:
    bool registerCreator(IPluginCreatorInterface &creator, const AsciiChar *name_space) noexcept override {
        const char *name = static_cast<nvinfer1::IPluginCreatorV3One &>(creator).getPluginName();
        lines += std::string(name_space) + "::" + name + "\n";
        return std::getenv("REFUSE_CREATORS") == nullptr;
    }

    std::string lines;

   private:
#if NV_TENSORRT_MAJOR < 11
    bool registerCreator(nvinfer1::IPluginCreator &, const AsciiChar *) noexcept override { return false; }
    nvinfer1::IPluginCreator *const *getPluginCreatorList(int32_t *) const noexcept override { return nullptr; }
    nvinfer1::IPluginCreator *getPluginCreator(const AsciiChar *, const AsciiChar *, const AsciiChar *) noexcept override {
        return nullptr;
    }
    bool deregisterCreator(const nvinfer1::IPluginCreator &) noexcept override { return false; }
#endif
#if NV_TENSORRT_MAJOR > 10 || NV_TENSORRT_MINOR > 3
    IPluginCreatorInterface *const *getAllCreatorsRecursive(int32_t *) noexcept override { return nullptr; }
#endif
    void setErrorRecorder(nvinfer1::IErrorRecorder *) noexcept override {}
    nvinfer1::IErrorRecorder *getErrorRecorder() const noexcept override { return nullptr; }
    bool isParentSearchEnabled() const override { return false; }
    void setParentSearchEnabled(bool) override {}
    PluginLibraryHandle loadLibrary(const AsciiChar *) noexcept override { return nullptr; }
    void deregisterLibrary(PluginLibraryHandle) noexcept override {}
    IPluginCreatorInterface *const *getAllCreators(int32_t *) const noexcept override { return nullptr; }
    IPluginCreatorInterface *getCreator(const AsciiChar *, const AsciiChar *, const AsciiChar *) noexcept override {
        return nullptr;
    }
    bool deregisterCreator(const IPluginCreatorInterface &) noexcept override { return false; }
    nvinfer1::IPluginResource *acquirePluginResource(const AsciiChar *, nvinfer1::IPluginResource *) noexcept override {
        return nullptr;
    }
    int32_t releasePluginResource(const AsciiChar *) noexcept override { return 0; }
} registry;

}  // namespace

extern "C" nvinfer1::IPluginRegistry *getPluginRegistry() noexcept { return &registry; }

extern "C" const char *registered() { return registry.lines.c_str(); }
