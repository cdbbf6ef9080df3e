#include "report.h"

#include <algorithm>
#include <fstream>
#include <numeric>

namespace star::tools {
namespace {

using Row = std::vector<std::string>;

size_t columns_of(const std::string &text) {
    return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

/// Columns as wide as their widest cell; the last one has no end.
void print_table(std::ostream &out, const std::vector<Row> &rows) {
    std::vector<size_t> widths(rows[0].size());
    for (const Row &row : rows)
        for (size_t column = 0; column < row.size(); ++column)
            widths[column] = std::max(widths[column], columns_of(row[column]));
    for (const Row &row : rows) {
        for (size_t column = 0; column + 1 < row.size(); ++column)
            out << row[column] << std::string(widths[column] - columns_of(row[column]) + 2, ' ');
        out << row.back() << '\n';
    }
}

std::string percent(double share) { return formatted("%.1f%%", 100 * share); }

/// Most memory this process ever held, in MB; 0 where the system does not say.
double peak_rss_mb() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) * 1024 / 1e6;
    return 0;
}

OrderedJson engine_of(const std::vector<std::string> &modules, const Recognizer &recognizer) {
    OrderedJson nodes = OrderedJson::object();
    for (const std::string &module : modules)
        if (std::string precision = recognizer.module_precision(module); !precision.empty()) nodes[module] = precision;
    return {{"engine", "native"},
            {"precision", recognizer.precision()},
            {"storage", recognizer.info().storage},
            {"compute", recognizer.info().compute},
            {"provider", recognizer.provider()},
            {"mode", "packed"},
            {"threads", recognizer.threads()},
            {"nodes", nodes}};
}

OrderedJson result_of(const Recognizer &recognizer, const Recording &recording, const Clip &clip,
                      std::span<const float> logits, int64_t top) {
    const std::vector<double> probabilities = softmax(logits);
    std::vector<int64_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        return probabilities[static_cast<size_t>(a)] > probabilities[static_cast<size_t>(b)];
    });
    order.resize(std::min(order.size(), static_cast<size_t>(top)));
    OrderedJson candidates = OrderedJson::array();
    for (const int64_t index : order)
        candidates.push_back(
            {{"name", recognizer.class_name(index)}, {"confidence", probabilities[static_cast<size_t>(index)]}});
    const int64_t label = best_of(logits);
    return {{"file", recording.file},
            {"clip", clip.name},
            {"rows", clip.rows},
            {"persons", clip.person_lengths},
            {"dropped", clip.dropped},
            {"label", label},
            {"name", recognizer.class_name(label)},
            {"confidence", probabilities[static_cast<size_t>(label)]},
            {"top", candidates},
            {"logits", std::vector<double>(logits.begin(), logits.end())},
            {"expected", nullptr}};
}

Row row_of(const OrderedJson &clip) {
    std::string rows, top;
    for (const auto &length : clip["persons"]) rows += (rows.empty() ? "" : " + ") + std::to_string(length.get<int64_t>());
    if (const auto dropped = clip["dropped"].get<int64_t>(); dropped > 0) rows += concat(" (", dropped, " lost)");
    for (const auto &candidate : clip["top"])
        top += (top.empty() ? "" : ", ") + candidate["name"].get<std::string>() + " " +
               percent(candidate["confidence"].get<double>());
    return {printable(clip["clip"].get<std::string>()), rows, printable(clip["name"].get<std::string>()),
            percent(clip["confidence"].get<double>()), printable(top)};
}

}  // namespace

OrderedJson report_of(const BundleFiles &bundle, const Recognizer &recognizer) {
    return {{"bundle", bundle.path()},
            {"bundle_id", bundle.manifest().bundle_id},
            {"engine", engine_of(bundle.modules(), recognizer)},
            {"clips", OrderedJson::array()},
            {"self_test", nullptr},
            {"correct", nullptr},
            {"schema", "star-edge/run/1"}};
}

OrderedJson results_of(const Recognizer &recognizer, std::span<const Recording> recordings, std::span<const float> logits,
                       int64_t top) {
    OrderedJson results = OrderedJson::array();
    const auto classes = static_cast<size_t>(recognizer.info().classes);
    for (const Recording &recording : recordings) {
        for (const Clip &clip : recording.clips) {
            results.push_back(result_of(recognizer, recording, clip, logits.first(classes), top));
            logits = logits.subspan(classes);
        }
    }
    return results;
}

OrderedJson figures_of(const Bench &bench) {
    const double median_s = bench.median_ms / 1e3;
    return {{"clips", bench.clips},
            {"frames", bench.frames},
            {"calls", bench.calls},
            {"median_ms", bench.median_ms},
            {"p90_ms", bench.p90_ms},
            {"p99_ms", bench.p99_ms},
            {"clips_per_s", static_cast<double>(bench.clips) / median_s},
            {"frames_per_s", static_cast<double>(bench.frames) / median_s},
            {"peak_rss_mb", peak_rss_mb()}};
}

OrderedJson shares_of(std::span<const StageShare> stages) {
    OrderedJson shares = OrderedJson::object();
    for (const StageShare &stage : stages) shares[stage.name] = stage.share;
    return shares;
}

void print_clips(std::ostream &out, const OrderedJson &clips, int64_t top) {
    std::vector<Row> rows = {{"clip", "rows", "class", "confidence", concat("top ", top)}};
    for (const OrderedJson &clip : clips) rows.push_back(row_of(clip));
    print_table(out, rows);
}

void print_figures(std::ostream &out, const OrderedJson &figures) {
    Row names, values;
    for (const auto &[name, value] : figures.items()) {
        names.push_back(name);
        values.push_back(value.is_number_float() ? formatted("%.2f", value.get<double>()) : value.dump());
    }
    print_table(out, {names, values});
}

void print_shares(std::ostream &out, const OrderedJson &shares) {
    std::vector<Row> rows = {{"time", "stage"}};
    for (const auto &[name, share] : shares.items()) rows.push_back({percent(share.get<double>()), name});
    print_table(out, rows);
}

std::string dump(const OrderedJson &document, int indent) {
    return document.dump(indent, ' ', false, OrderedJson::error_handler_t::replace);
}

std::string printable(std::string text) {
    for (char &c : text)
        if ((static_cast<unsigned char>(c) < 0x20 && c != '\n') || c == 0x7f) c = '?';
    return text;
}

}  // namespace star::tools
