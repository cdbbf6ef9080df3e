#include "library.h"

#include <dlfcn.h>

#include <stdexcept>

namespace conformance {

using nvinfer1::PluginCapabilityType;

void Logger::log(Severity severity, const char *line) noexcept {
    if (severity == Severity::kERROR) lines.emplace_back(line);
}

Plugin::Plugin(nvinfer1::IPluginV3 *plugin) : self(plugin) {
    if (plugin == nullptr) return;
    core = static_cast<nvinfer1::IPluginV3OneCore *>(plugin->getCapabilityInterface(PluginCapabilityType::kCORE));
    build = static_cast<nvinfer1::IPluginV3OneBuild *>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    runtime = static_cast<nvinfer1::IPluginV3OneRuntime *>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

class Library::Finder final : public nvinfer1::ILoggerFinder {
   public:
    explicit Finder(Logger &logger) : logger_(logger) {}
    ~Finder() override = default;
    nvinfer1::ILogger *findLogger() override { return &logger_; }

   private:
    Logger &logger_;
};

Library::Library(const std::string &path)
    : handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL),
              [](void *handle) {
                  if (handle != nullptr) dlclose(handle);
              }),
      finder_(std::make_shared<Finder>(logger)) {
    if (handle_ == nullptr) throw std::runtime_error(dlerror());
    const auto find = [&](const char *name) {
        void *found = dlsym(handle_.get(), name);
        if (found == nullptr) throw std::runtime_error(path + " has no " + name);
        return found;
    };
    using GetCreators = nvinfer1::IPluginCreatorInterface *const *(int32_t &);
    using SetLoggerFinder = void(nvinfer1::ILoggerFinder *);
    reinterpret_cast<SetLoggerFinder *>(find("setLoggerFinder"))(finder_.get());
    int32_t count = 0;
    nvinfer1::IPluginCreatorInterface *const *found = reinterpret_cast<GetCreators *>(find("getCreators"))(count);
    creators_.assign(found, found + count);
}

nvinfer1::IPluginCreatorV3One &Library::creator_of(const Contract &contract) const {
    for (nvinfer1::IPluginCreatorInterface *one : creators_) {
        auto *creator = static_cast<nvinfer1::IPluginCreatorV3One *>(one);
        if (creator->getPluginName() == contract.name) return *creator;
    }
    throw std::runtime_error("no creator of " + contract.name);
}

Plugin Library::create(const Contract &contract, const Fields &fields, nvinfer1::TensorRTPhase phase) const {
    const nvinfer1::PluginFieldCollection collection = fields.collection();
    return Plugin(creator_of(contract).createPlugin("layer", &collection, phase));
}

Plugin Library::create(const Contract &contract, const Settings &settings) {
    Plugin plugin = create(contract, Fields(contract, settings));
    if (!plugin) throw std::runtime_error(logger.lines.empty() ? contract.name + " was refused" : logger.lines.back());
    return plugin;
}

std::string Library::problem_of_refusal(const Contract &contract, const std::string &words,
                                        const std::function<bool()> &refuses) {
    logger.lines.clear();
    if (!refuses()) return words + ": not refused";
    if (logger.lines.size() != 1) return words + ": " + std::to_string(logger.lines.size()) + " lines of errors instead of 1";
    const std::string &line = logger.lines[0];
    for (const std::string &part : {contract.name, words, std::string("found"), std::string("expected")})
        if (line.find(part) == std::string::npos) return words + ": no '" + part + "' in '" + line + "'";
    return "";
}

}  // namespace conformance
