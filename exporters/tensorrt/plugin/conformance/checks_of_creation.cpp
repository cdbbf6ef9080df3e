#include <cmath>
#include <cstring>
#include <map>

#include "checks.h"

namespace conformance {
namespace {

using nvinfer1::PluginFieldType;
using nvinfer1::TensorRTPhase;

std::string problem_of_names(const char *name, const char *version, const char *name_space, const Contract &contract) {
    if (name == contract.name && std::strcmp(version, "1") == 0 && std::strcmp(name_space, "star_edge") == 0) return "";
    return std::string("found ") + name_space + "::" + name + " " + version;
}

std::string problem_of_field_names(nvinfer1::IPluginCreatorV3One &creator, const Contract &contract) {
    std::map<std::string, PluginFieldType> expected, found;
    const Fields fields(contract, Settings{});
    const nvinfer1::PluginFieldCollection all = fields.collection();
    for (int32_t i = 0; i < all.nbFields; i++) expected[all.fields[i].name] = all.fields[i].type;
    const nvinfer1::PluginFieldCollection *named = creator.getFieldNames();
    for (int32_t i = 0; i < named->nbFields; i++) found[named->fields[i].name] = named->fields[i].type;
    return found == expected ? "" : "other names or types than the op's attributes";
}

std::string problem_of_interfaces(const Plugin &plugin, const Contract &contract) {
    if (!plugin) return "refused";
    if (plugin.core == nullptr || plugin.build == nullptr || plugin.runtime == nullptr) return "an interface is missing";
    const auto is = [](nvinfer1::IVersionedInterface &one, const char *kind) {
        return std::strcmp(one.getInterfaceInfo().kind, kind) == 0;
    };
    if (!is(*plugin.core, "PLUGIN_V3ONE_CORE") || !is(*plugin.build, "PLUGIN_V3ONE_BUILD") ||
        !is(*plugin.runtime, "PLUGIN_V3ONE_RUNTIME"))
        return "an interface is of another kind";
    if (plugin.build->getNbOutputs() != 1) return "it has not one output";
    return problem_of_names(plugin.core->getPluginName(), plugin.core->getPluginVersion(), plugin.core->getPluginNamespace(),
                            contract);
}

/// Fields that must be refused, and the words that the refusal must contain.
struct BadFields {
    std::string words;
    Fields fields;
    BadFields(const std::string &words, const Contract &contract) : words(words), fields(contract, Settings{}) {}
};

std::deque<BadFields> bad_fields(const Contract &contract) {
    std::deque<BadFields> all;
    const auto add = [&](const std::string &words, const std::function<void(Fields &)> &change) {
        change(all.emplace_back(words, contract).fields);
    };
    const auto integers = [&](const std::string &name, const std::vector<std::vector<int32_t>> &bad) {
        for (const std::vector<int32_t> &values : bad) add(name, [&](Fields &fields) { fields.set(name, values); });
    };
    const auto reals = [&](const std::string &name, const std::vector<std::vector<float>> &bad) {
        for (const std::vector<float> &values : bad) add(name, [&](Fields &fields) { fields.set(name, values); });
    };
    add("colour", [](Fields &fields) { fields.set("colour", std::vector<int32_t>{1}); });
    for (const char *name : {"heads", "edges", "eps", "input_scale"}) {
        const bool is_own = (std::strcmp(name, "heads") == 0 && contract.has_heads) ||
                            (std::strcmp(name, "edges") == 0 && contract.has_edges) ||
                            (std::strcmp(name, "eps") == 0 && contract.has_eps) || std::strcmp(name, "input_scale") == 0;
        if (!is_own) {
            add(name, [&](Fields &fields) { fields.set(name, std::vector<int32_t>{1}); });
            continue;
        }
        const bool is_real = std::strcmp(name, "eps") == 0 || std::strcmp(name, "input_scale") == 0;
        const bool is_list = std::strcmp(name, "edges") == 0;
        const PluginFieldType type = is_real ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32;
        for (const PluginFieldType other : {PluginFieldType::kFLOAT32, PluginFieldType::kINT32, PluginFieldType::kINT64,
                                            PluginFieldType::kFLOAT64, PluginFieldType::kCHAR, PluginFieldType::kUNKNOWN})
            if (other != type) add(name, [&](Fields &fields) { fields.spoil(name, other, 1); });
        for (const int32_t length : {-1, 0, 2})
            if (!is_list || length < 2) add(name, [&](Fields &fields) { fields.spoil(name, type, length); });
        add(name, [&](Fields &fields) { fields.spoil(name, type, is_list ? 2 : 1, false); });
        add(name, [&](Fields &fields) { fields.repeat(name); });
        if (std::strcmp(name, "input_scale") != 0) add(name, [&](Fields &fields) { fields.remove(name); });
    }
    if (contract.has_heads) integers("heads", {{0}, {-2}});
    // three values; a joint below and above all; one without an edge; one that is but another's neighbour
    if (contract.has_edges)
        integers("edges", {{0, 0, 1}, {0, -1}, chain(65).edges, {INT32_MAX, 0}, {INT32_MIN, 0}, {0, 0, 2, 2}, {0, 1}});
    if (contract.has_eps) reals("eps", {{0}, {-1e-6f}, {NAN}, {INFINITY}});
    reals("input_scale", {{0.1f}});  // the other is 0
    reals("output_scale", {{0.1f}});
    for (const char *bad : {"input_scale", "output_scale"})
        for (const float scale : {-0.1f, NAN, INFINITY})
            add(bad, [&](Fields &fields) {
                for (const char *name : {"input_scale", "output_scale"})
                    fields.set(name, std::vector<float>{std::strcmp(name, bad) == 0 ? scale : 0.1f});
            });
    add("input_scale", [](Fields &fields) {
        for (const char *name : {"input_scale", "output_scale"}) fields.set(name, std::vector<float>{-0.1f});
    });
    return all;
}

std::string problem_of_refusals(Library &library, const Contract &contract) {
    for (const BadFields &bad : bad_fields(contract)) {
        const std::string problem =
            library.problem_of_refusal(contract, bad.words, [&] { return !library.create(contract, bad.fields); });
        if (!problem.empty()) return problem;
    }
    if (!contract.has_heads) return "";
    return library.problem_of_refusal(contract, "heads", [&] {
        return library.creator_of(contract).createPlugin("layer", nullptr, TensorRTPhase::kBUILD) == nullptr;
    });
}

bool are_same(const Plugin &a, const Plugin &b) {
    return are_equal(*a.runtime->getFieldsToSerialize(), *b.runtime->getFieldsToSerialize()) &&
           std::strcmp(a.build->getTimingCacheID(), b.build->getTimingCacheID()) == 0;
}

/// A plugin says what it was made of, and what it says makes an equal one, after the first is gone.
std::string problem_of_copies(Library &library, const Contract &contract, const Settings &settings) {
    const Fields fields(contract, settings);
    Plugin original = library.create(contract, fields);
    if (!original) return "refused";
    if (!are_equal(*original.runtime->getFieldsToSerialize(), fields.collection()))
        return "getFieldsToSerialize() gives other fields than it was made of";
    const Plugin cloned(original.self->clone()), attached(original.runtime->attachToContext(nullptr));
    if (!cloned || !attached || cloned.self == original.self || attached.self == original.self)
        return "clone() or attachToContext() gives no plugin of its own";
    original = Plugin();
    const nvinfer1::PluginFieldCollection serialized = *cloned.runtime->getFieldsToSerialize();
    const Plugin again(library.creator_of(contract).createPlugin("layer", &serialized, TensorRTPhase::kRUNTIME));
    const std::string problem = problem_of_interfaces(again, contract);
    if (!problem.empty()) return "recreated from its own fields: " + problem;
    for (const Plugin *copy : {&attached, &again})
        if (!are_same(cloned, *copy)) return "a copy is not equal";
    return "";
}

/// One id for each number of heads and set of edges, the same whatever the edges' order.
std::string problem_of_timing_cache(Library &library, const Contract &contract) {
    const auto id = [&](const Settings &settings) {
        const Plugin plugin = library.create(contract, settings);
        const char *found = plugin.build->getTimingCacheID();
        return found == nullptr ? std::string() : std::string(found);
    };
    Settings same, heads, edges;
    std::vector<int32_t> reversed;
    for (size_t i = same.edges.size(); i > 0; i -= 2) reversed.insert(reversed.end(), {same.edges[i - 2], same.edges[i - 1]});
    same.edges = reversed;
    heads.heads = 4;
    edges.edges.resize(edges.edges.size() - 2);
    const std::string expected = id(Settings{});
    if (expected.find(contract.name) == std::string::npos) return "an id without the op's name, or none";
    if (id(same) != expected) return "another id for the same neighbours";
    if ((id(heads) != expected) != contract.has_heads) return "ids do not tell heads apart, or are no op's of heads";
    if ((id(edges) != expected) != contract.has_edges) return "ids do not tell edges apart, or are no op's of edges";
    return "";
}

}  // namespace

void check_creation(Library &library, const Contract &contract, Report &report) {
    const auto check = [&](const std::string &what, const std::string &problem) {
        report.check(contract.name + ": " + what, problem);
    };
    nvinfer1::IPluginCreatorV3One &creator = library.creator_of(contract);
    check("creator's names",
          problem_of_names(creator.getPluginName(), creator.getPluginVersion(), creator.getPluginNamespace(), contract));
    check("creator's interface",
          std::strcmp(creator.getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") == 0 ? "" : "of another kind");
    check("creator's fields", problem_of_field_names(creator, contract));
    Settings quantised;
    quantised.input_scale = 0.03f;
    quantised.output_scale = 0.02f;
    quantised.edges = scattered(25).edges;
    for (const TensorRTPhase phase : {TensorRTPhase::kBUILD, TensorRTPhase::kRUNTIME})
        check(phase == TensorRTPhase::kBUILD ? "interfaces, built" : "interfaces, at run time",
              problem_of_interfaces(library.create(contract, Fields(contract, quantised), phase), contract));
    check("refuses " + std::to_string(bad_fields(contract).size()) + " sets of bad fields",
          problem_of_refusals(library, contract));
    check("copies of floats", problem_of_copies(library, contract, Settings{}));
    check("copies of int8", problem_of_copies(library, contract, quantised));
    check("timing cache id", problem_of_timing_cache(library, contract));
}

}  // namespace conformance
