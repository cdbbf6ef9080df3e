#include "creators.h"

#include <new>

#include "log.h"
#include "plugin.h"

namespace star_edge {
namespace {

class Creator final : public nvinfer1::IPluginCreatorV3One {
   public:
    explicit Creator(const Op &op) : op_(op) {
        for (const Field *field : op.fields)
            if (field != nullptr) fields_[count_++] = {field->name, nullptr, field->type(), field->is_list() ? 0 : 1};
        names_ = {static_cast<int32_t>(count_), fields_.data()};
    }

    nvinfer1::IPluginV3 *createPlugin(const char *, const nvinfer1::PluginFieldCollection *fields,
                                      nvinfer1::TensorRTPhase) noexcept override {
        try {
            Parameters parameters;
            return read_fields(op_, fields, parameters) ? new Plugin(op_, parameters) : nullptr;
        } catch (const std::bad_alloc &) {
            log_error("%s: no memory for a plugin", op_.name);
            return nullptr;
        }
    }

    const nvinfer1::PluginFieldCollection *getFieldNames() noexcept override { return &names_; }
    const char *getPluginName() const noexcept override { return op_.name; }
    const char *getPluginVersion() const noexcept override { return kVersion; }
    const char *getPluginNamespace() const noexcept override { return kNamespace; }

   private:
    const Op &op_;
    size_t count_ = 0;
    std::array<nvinfer1::PluginField, kMostFields> fields_;
    nvinfer1::PluginFieldCollection names_{};
};

}  // namespace

const std::array<nvinfer1::IPluginCreatorInterface *, kOps.size()> &creators() {
    static Creator positions(kOps[0]), sparse(kOps[1]), linear(kOps[2]), context(kOps[3]);
    static const std::array<nvinfer1::IPluginCreatorInterface *, kOps.size()> all{&positions, &sparse, &linear, &context};
    return all;
}

}  // namespace star_edge
