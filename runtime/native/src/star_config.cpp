#include "star_config.h"

#include <algorithm>

#include "message.h"
#include "skeleton.h"

namespace star {

namespace {

const std::vector<std::string> kFields = {"attention_dropout", "channels", "classes", "dim",    "dropout", "edges",
                                          "head_dropout",      "heads",    "hidden",  "joints", "layers"};

std::vector<std::string> encoders(const Config &config) {
    std::vector<std::string> paths;
    for (int64_t layer = 0; layer < config.layers; layer++) {
        for (const char *branch : {"spatial", "temporal"}) paths.push_back("layers." + std::to_string(layer) + "." + branch);
    }
    return paths;
}

void check_edges(const Config &config) {
    std::set<std::pair<int32_t, int32_t>> pairs;
    std::vector<bool> attends(static_cast<std::size_t>(config.joints), false);
    for (const auto &edge : config.edges) {
        if (!pairs.insert(edge).second)
            throw Malformed("the edge " + std::to_string(edge.first) + ", " + std::to_string(edge.second) + " twice",
                            "each pair once");
        attends[edge.first] = true;
    }
    const auto without = std::find(attends.begin(), attends.end(), false);
    if (without != attends.end())
        throw Malformed("joint " + std::to_string(without - attends.begin()) + " without an edge", "an edge from every joint");
}

}  // namespace

bool is_star_config(const Json &config) {
    if (!config.is_object()) return false;
    const auto ranks = config.find("ranks");  // of older bundles there are none; the kernels take whole matrices alone
    const bool whole = ranks == config.end() || (ranks->is_object() && ranks->empty());
    const std::size_t fields = kFields.size() + (ranks == config.end() ? 0 : 1);
    return whole && config.size() == fields &&
           std::all_of(kFields.begin(), kFields.end(), [&config](const std::string &field) { return config.contains(field); });
}

Config read_star_config(const Value &value) {
    constexpr int64_t most_joints = 1024, most_dim = 4096, most_layers = 64, most_hidden = 1 << 16, most_classes = 1 << 16;
    Config config;
    config.joints = value.at("joints").integer(2, most_joints);
    config.channels = value.at("channels").integer(3, 9);
    config.classes = value.at("classes").integer(1, most_classes);
    config.dim = value.at("dim").integer(1, most_dim);
    config.heads = value.at("heads").integer(1, most_dim);
    config.layers = value.at("layers").integer(1, most_layers);
    config.hidden = value.at("hidden").integer(1, most_hidden);
    if (config.dim % config.heads != 0)
        throw Malformed("dim " + std::to_string(config.dim) + ", heads " + std::to_string(config.heads),
                        "heads that divide dim");
    config.edges = read_pairs(value.at("edges"), config.joints);
    check_edges(config);
    for (const char *rate : {"dropout", "attention_dropout", "head_dropout"}) value.at(rate).number();
    return config;
}

std::map<std::string, std::vector<int64_t>> star_tensors(const Config &config) {
    const int64_t dim = config.dim, inputs = config.joints * config.channels;
    std::map<std::string, std::vector<int64_t>> tensors = {
        {"embedding.weight", {dim, config.channels}},
        {"embedding.bias", {dim}},
        {"context.weight", {dim, dim}},
        {"head.hidden.weight", {config.hidden, config.joints * dim}},
        {"head.hidden.bias", {config.hidden}},
        {"head.output.weight", {config.classes, config.hidden}},
        {"head.output.bias", {config.classes}},
    };
    for (const char *name : {"weight", "bias", "running_mean", "running_var"})
        tensors[std::string("input_norm.") + name] = {inputs};
    for (const std::string &path : encoders(config)) {
        tensors[path + ".qkv.weight"] = {3 * dim, dim};
        for (const char *linear : {".linear1", ".linear2"}) {
            tensors[path + linear + ".weight"] = {dim, dim};
            tensors[path + linear + ".bias"] = {dim};
        }
        for (const char *norm : {".norm1", ".norm2"}) {
            tensors[path + norm + ".weight"] = {dim};
            tensors[path + norm + ".bias"] = {dim};
        }
    }
    return tensors;
}

std::set<std::string> star_modules(const Config &config) {
    std::set<std::string> modules = {"input_norm", "embedding", "positions", "context", "head.hidden", "head.output"};
    for (const std::string &path : encoders(config)) {
        for (const char *name : {".qkv", ".attention", ".norm1", ".linear1", ".linear2", ".norm2"})
            modules.insert(path + name);
    }
    return modules;
}

std::set<std::string> star_quantisable_modules(const Config &config) {
    std::set<std::string> modules = {"head.hidden", "head.output"};
    for (const std::string &path : encoders(config)) {
        for (const char *name : {".qkv", ".linear1", ".linear2"}) modules.insert(path + name);
    }
    return modules;
}

}  // namespace star
