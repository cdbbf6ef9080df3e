// The library of plugins, loaded as TensorRT loads it, and plugins made by it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "contract.h"

namespace conformance {

/// Keeps the lines of errors.
class Logger final : public nvinfer1::ILogger {
   public:
    void log(Severity severity, const char *line) noexcept override;
    std::vector<std::string> lines;
};

/// A plugin and its interfaces; empty where it was refused.
struct Plugin {
    std::unique_ptr<nvinfer1::IPluginV3> self;
    nvinfer1::IPluginV3OneCore *core = nullptr;
    nvinfer1::IPluginV3OneBuild *build = nullptr;
    nvinfer1::IPluginV3OneRuntime *runtime = nullptr;

    Plugin() = default;
    explicit Plugin(nvinfer1::IPluginV3 *plugin);
    explicit operator bool() const { return self != nullptr; }
};

class Library {
   public:
    /// Throws std::runtime_error where it cannot be loaded or lacks an entry point.
    explicit Library(const std::string &path);
    Library(const Library &) = delete;
    Library &operator=(const Library &) = delete;

    const std::vector<nvinfer1::IPluginCreatorInterface *> &creators() const { return creators_; }
    nvinfer1::IPluginCreatorV3One &creator_of(const Contract &contract) const;
    Plugin create(const Contract &contract, const Fields &fields,
                  nvinfer1::TensorRTPhase phase = nvinfer1::TensorRTPhase::kBUILD) const;
    /// Of fields that must be right; throws std::runtime_error with the library's line where they are refused.
    Plugin create(const Contract &contract, const Settings &settings);

    /// What is wrong with a refusal: it must be one, and its line name the op and the words, and what was expected.
    std::string problem_of_refusal(const Contract &contract, const std::string &words, const std::function<bool()> &refuses);

    Logger logger;

   private:
    class Finder;
    std::shared_ptr<void> handle_;
    std::shared_ptr<Finder> finder_;
    std::vector<nvinfer1::IPluginCreatorInterface *> creators_;
};

}  // namespace conformance
