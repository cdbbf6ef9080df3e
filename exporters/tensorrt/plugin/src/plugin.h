// A plugin of any of the ops: the op says what differs.
#pragma once

#include <string>
#include <vector>

#include "ops.h"

namespace star_edge {

inline constexpr const char *kVersion = "1", *kNamespace = "star_edge";

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
   public:
    Plugin(const Op &op, const Parameters &parameters);
    Plugin(const Plugin &) = delete;
    Plugin &operator=(const Plugin &) = delete;

    nvinfer1::IPluginCapability *getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3 *clone() noexcept override;

    const char *getPluginName() const noexcept override { return op_.name; }
    const char *getPluginVersion() const noexcept override { return kVersion; }
    const char *getPluginNamespace() const noexcept override { return kNamespace; }

    int32_t getNbOutputs() const noexcept override { return 1; }
    int32_t getOutputDataTypes(nvinfer1::DataType *output_types, int32_t outputs, const nvinfer1::DataType *input_types,
                               int32_t inputs) const noexcept override;
    int32_t getOutputShapes(const nvinfer1::DimsExprs *inputs, int32_t input_count, const nvinfer1::DimsExprs *shape_inputs,
                            int32_t shape_input_count, nvinfer1::DimsExprs *outputs, int32_t output_count,
                            nvinfer1::IExprBuilder &expressions) noexcept override;
    bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc *tensors, int32_t inputs,
                                   int32_t outputs) noexcept override;
    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc *inputs, int32_t input_count,
                            const nvinfer1::DynamicPluginTensorDesc *outputs, int32_t output_count) noexcept override;
    size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc *inputs, int32_t input_count,
                            const nvinfer1::DynamicPluginTensorDesc *outputs, int32_t output_count) const noexcept override;
    const char *getTimingCacheID() noexcept override { return timing_cache_id_.c_str(); }

    int32_t onShapeChange(const nvinfer1::PluginTensorDesc *inputs, int32_t input_count,
                          const nvinfer1::PluginTensorDesc *outputs, int32_t output_count) noexcept override;
    int32_t enqueue(const nvinfer1::PluginTensorDesc *input_descs, const nvinfer1::PluginTensorDesc *output_descs,
                    const void *const *inputs, void *const *outputs, void *workspace, cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3 *attachToContext(nvinfer1::IPluginResourceContext *context) noexcept override;
    const nvinfer1::PluginFieldCollection *getFieldsToSerialize() noexcept override { return &serialized_; }

   private:
    bool has_counts(int32_t inputs, int32_t outputs) const;
    bool supports(int32_t position, nvinfer1::DataType type, nvinfer1::TensorFormat format, nvinfer1::DataType first) const;

    const Op &op_;
    const Parameters parameters_;
    const std::string timing_cache_id_;
    const std::vector<nvinfer1::PluginField> fields_;
    const nvinfer1::PluginFieldCollection serialized_;
};

}  // namespace star_edge
