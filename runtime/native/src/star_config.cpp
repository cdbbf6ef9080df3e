#include "star_config.h"

#include <algorithm>

#include "message.h"
#include "skeleton.h"

namespace star {

namespace {

const std::vector<std::string> kFields = {"attention_dropout", "channels", "classes", "dim",    "dropout", "edges",
                                          "head_dropout",      "heads",    "hidden",  "joints", "layers"};
const std::vector<std::string> kOptionalFields = {"experts", "ranks", "widths"};
constexpr const char *kHeadHidden = "head.hidden";
constexpr int64_t kMostHidden = 1 << 16;

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

/// Linear layers as they are where none is of low rank.
std::vector<Matrix> whole_matrices(const Config &config) {
    const int64_t dim = config.dim;
    std::vector<Matrix> matrices = {{"embedding", dim, config.channels, true}};
    for (const std::string &path : encoders(config)) {
        const auto other = config.widths.find(path + ".linear1");
        const int64_t width = other == config.widths.end() ? dim : other->second;
        matrices.push_back({path + ".qkv", 3 * dim, dim, false});
        matrices.push_back({path + ".linear1", width, dim, true});
        matrices.push_back({path + ".linear2", dim, width, true});
    }
    matrices.push_back({kHeadHidden, config.hidden, config.joints * dim, true});
    matrices.push_back({"head.output", config.classes, config.hidden, true});
    return matrices;
}

void read_widths(const Value &value, Config &config) {
    std::set<std::string> paths;
    for (const std::string &path : encoders(config)) paths.insert(path + ".linear1");
    for (const auto &[path, width] : value.fields()) {
        if (path == kHeadHidden) {
            config.hidden = width.integer(1, kMostHidden);
        } else if (paths.count(path)) {
            config.widths[path] = width.integer(1, kMostHidden);
        } else {
            throw Malformed(in_quotes(path) + " in " + value.path(), "linear1 of an encoder, or head.hidden");
        }
    }
}

void read_ranks(const Value &value, Config &config) {
    std::map<std::string, int64_t> largest;
    for (const Matrix &matrix : whole_matrices(config)) largest[matrix.path] = std::min(matrix.outputs, matrix.inputs);
    for (const auto &[path, rank] : value.fields()) {
        const auto found = largest.find(path);
        if (found == largest.end()) throw Malformed(in_quotes(path) + " in " + value.path(), "the path of a linear layer");
        config.ranks[path] = rank.integer(1, found->second);
    }
}

}  // namespace

bool is_star_config(const Json &config) {
    if (!config.is_object()) return false;
    const auto has = [&config](const std::string &field) { return config.contains(field); };
    const auto optional = std::count_if(kOptionalFields.begin(), kOptionalFields.end(), has);
    return std::all_of(kFields.begin(), kFields.end(), has) &&
           config.size() == kFields.size() + static_cast<std::size_t>(optional);
}

bool is_ensemble(const Value &config) {
    const std::optional<Value> experts = config.find("experts");
    return experts && experts->integer(1, INT32_MAX) > 1;
}

Config read_star_config(const Value &value) {
    constexpr int64_t most_joints = 1024, most_dim = 4096, most_layers = 64, most_classes = 1 << 16;
    Config config;
    config.joints = value.at("joints").integer(2, most_joints);
    config.channels = value.at("channels").integer(3, 9);
    config.classes = value.at("classes").integer(1, most_classes);
    config.dim = value.at("dim").integer(1, most_dim);
    config.heads = value.at("heads").integer(1, most_dim);
    config.layers = value.at("layers").integer(1, most_layers);
    config.hidden = value.at("hidden").integer(1, kMostHidden);
    if (config.dim % config.heads != 0)
        throw Malformed("dim " + std::to_string(config.dim) + ", heads " + std::to_string(config.heads),
                        "heads that divide dim");
    config.edges = read_pairs(value.at("edges"), config.joints);
    check_edges(config);
    if (const auto widths = value.find("widths")) read_widths(*widths, config);
    if (const auto ranks = value.find("ranks")) read_ranks(*ranks, config);
    for (const char *rate : {"dropout", "attention_dropout", "head_dropout"}) value.at(rate).number();
    return config;
}

std::vector<Matrix> star_matrices(const Config &config) {
    std::vector<Matrix> matrices;
    for (const Matrix &matrix : whole_matrices(config)) {
        const auto rank = config.ranks.find(matrix.path);
        if (rank == config.ranks.end()) {
            matrices.push_back(matrix);
        } else {
            matrices.push_back({matrix.path + ".first", rank->second, matrix.inputs, false});
            matrices.push_back({matrix.path + ".second", matrix.outputs, rank->second, matrix.bias});
        }
    }
    return matrices;
}

std::map<std::string, std::vector<int64_t>> star_tensors(const Config &config) {
    std::map<std::string, std::vector<int64_t>> tensors = {{"context.weight", {config.dim, config.dim}}};
    for (const char *name : {"weight", "bias", "running_mean", "running_var"})
        tensors[std::string("input_norm.") + name] = {config.joints * config.channels};
    for (const Matrix &matrix : star_matrices(config)) {
        tensors[matrix.path + ".weight"] = {matrix.outputs, matrix.inputs};
        if (matrix.bias) tensors[matrix.path + ".bias"] = {matrix.outputs};
    }
    for (const std::string &path : encoders(config)) {
        for (const char *norm : {".norm1", ".norm2"}) {
            tensors[path + norm + ".weight"] = {config.dim};
            tensors[path + norm + ".bias"] = {config.dim};
        }
    }
    return tensors;
}

std::set<std::string> star_modules(const Config &config) {
    std::set<std::string> modules = {"input_norm", "positions", "context"};
    for (const Matrix &matrix : star_matrices(config)) modules.insert(matrix.path);
    for (const std::string &path : encoders(config)) {
        for (const char *name : {".attention", ".norm1", ".norm2"}) modules.insert(path + name);
    }
    return modules;
}

std::set<std::string> star_quantisable_modules(const Config &config) {
    std::set<std::string> modules;
    for (const Matrix &matrix : star_matrices(config)) {
        if (!matrix.path.starts_with("embedding")) modules.insert(matrix.path);
    }
    return modules;
}

}  // namespace star
