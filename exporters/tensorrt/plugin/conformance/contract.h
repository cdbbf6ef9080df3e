// What is promised of each op, said independently of the plugins.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "../src/tensorrt.h"

namespace conformance {

enum class Input { features, weight, offsets };

struct Contract {
    std::string name;
    std::vector<Input> inputs;
    int64_t parts;  // of the first input's channels
    bool has_heads, has_edges, has_eps;
    bool gives_clips;  // a row of the output is a clip
};

extern const std::vector<Contract> kContracts;

/// Joints, and edges as flattened pairs.
struct Layout {
    int64_t joints;
    std::vector<int32_t> edges;
};

/// Neighbours up to two joints away, and one edge without its opposite.
Layout chain(int64_t joints);
/// Each joint with itself and, one way, with the joints at some distances: rows of one to four edges.
Layout scattered(int64_t joints);

struct Settings {
    int32_t heads = 2;
    std::vector<int32_t> edges = chain(5).edges;
    float eps = 1e-6f;
    float input_scale = 0, output_scale = 0;
};

/// Plugin fields that own what they point to.
class Fields {
   public:
    Fields(const Contract &contract, const Settings &settings);
    Fields(const Fields &) = delete;
    Fields &operator=(const Fields &) = delete;

    void set(const std::string &name, const std::vector<int32_t> &values);
    void set(const std::string &name, const std::vector<float> &values);
    void remove(const std::string &name);
    /// The same name again.
    void repeat(const std::string &name);
    /// As it must not be: of another type, length, or at no address.
    void spoil(const std::string &name, nvinfer1::PluginFieldType type, int32_t length, bool has_data = true);

    nvinfer1::PluginFieldCollection collection() const;

   private:
    void put(const std::string &name, const void *data, nvinfer1::PluginFieldType type, size_t length);

    std::deque<std::string> names_;
    std::deque<std::vector<int32_t>> words_;  // floats by their bits, 4 bytes each
    std::vector<nvinfer1::PluginField> fields_;
};

/// Extents of an op's tensors.
struct Size {
    int64_t frames = 12, clips = 3, joints = 5, channels = 16;
};

/// Tensors as TensorRT describes them: inputs, then the output.
std::vector<nvinfer1::PluginTensorDesc> descs_of(const Contract &contract, const Size &size, nvinfer1::DataType features,
                                                 nvinfer1::DataType weight = nvinfer1::DataType::kFLOAT);

/// Whether two collections say the same.
bool are_equal(const nvinfer1::PluginFieldCollection &a, const nvinfer1::PluginFieldCollection &b);

}  // namespace conformance
