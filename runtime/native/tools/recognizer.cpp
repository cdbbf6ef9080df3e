#include "recognizer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

namespace star::tools {
namespace {

constexpr int64_t BATCH_ROWS = 4096;  // enough work for every core; features of more are not held at once
constexpr int64_t LEAST_CALLS = 10;
constexpr const char *PRECISIONS[] = {"default", "fp32", "fp16", "bf16", "int8"};  // by star_precision

/// Median (between the middle two of an even number), and the nearest-rank 90 and 99 %, of times in seconds.
Bench percentiles(std::vector<double> times) {
    std::sort(times.begin(), times.end());
    const size_t count = times.size();
    const auto rank = [&](double share) {
        return 1e3 * times[static_cast<size_t>(std::ceil(share * static_cast<double>(count))) - 1];
    };
    return {.clips = 0,
            .frames = 0,
            .calls = static_cast<int64_t>(count),
            .median_ms = 1e3 * (times[(count - 1) / 2] + times[count / 2]) / 2,
            .p90_ms = rank(0.90),
            .p99_ms = rank(0.99)};
}

double seconds_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

Recognizer::Recognizer(const BundleFiles &bundle, const Opening &opening)
    : model_(bundle.load(opening.precision, opening.isa)) {
    tools::check(star_model_describe(model_.get(), &info_));
    star_context *context = nullptr;
    tools::check(star_context_create(model_.get(), opening.threads, &context));
    context_.reset(context);
}

std::string Recognizer::precision() const { return PRECISIONS[info_.precision]; }

std::string Recognizer::module_precision(const std::string &module) const {
    const char *name = star_model_module_precision(model_.get(), module.c_str());
    return name == nullptr ? "" : name;
}

std::string Recognizer::provider() const { return concat("libstar_edge ", star_version(), ", ", info_.products); }

std::string Recognizer::describe() const {
    const std::string storage = info_.storage, compute = info_.compute;
    const bool differs = storage != precision() || compute != precision();
    return concat("native ", precision(), differs ? concat(" (stored ", storage, ", computed ", compute, ")") : "", ", ",
                  provider(), ", ", threads(), threads() == 1 ? " thread" : " threads");
}

void Recognizer::check(const Recording &recording) const {
    if (recording.joint_count == info_.joints) return;
    throw input_error("wrong joint count", {.where = recording.clips[0].name,
                                            .found = concat(recording.joint_count, " joints of 3 numbers"),
                                            .expected = concat(info_.joints, " joints of 3 numbers"),
                                            .next = "use a bundle trained on this skeleton"});
}

std::vector<float> Recognizer::logits(std::span<const Recording> recordings) {
    std::vector<const Clip *> clips;
    for (const Recording &recording : recordings)
        for (const Clip &clip : recording.clips) clips.push_back(&clip);
    std::vector<float> logits(clips.size() * static_cast<size_t>(info_.classes));
    float *next = logits.data();
    Packed batch;
    const auto flush = [&] {
        run(batch, next);
        next += batch.clips() * info_.classes;
        batch = {};
    };
    for (const Recording &recording : recordings) {
        for (const Clip &clip : recording.clips) {
            if (batch.clips() > 0 && batch.rows() + clip.rows > BATCH_ROWS) flush();
            append(recording, clip, batch);
        }
    }
    if (batch.clips() > 0) flush();
    for (size_t clip = 0; clip < clips.size(); clip++)
        check_finite(std::span(logits).subspan(clip * info_.classes, info_.classes), clips[clip]->name);
    return logits;
}

void Recognizer::check_finite(std::span<const float> logits, const std::string &where) const {
    if (std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); })) return;
    throw Failure(Exit::gate_missed, "the engine's answer is not finite: " + precision() + " overflows on this clip",
                  {.where = where, .next = "use --precision fp32, and check the units of the joints"});
}

void Recognizer::append(const Recording &recording, const Clip &clip, Packed &packed) const {
    const size_t before = packed.features.size();
    packed.features.resize(before + static_cast<size_t>(clip.rows * info_.joints * info_.channels));
    tools::check(star_features(model_.get(), recording.joints.data() + clip.first_row * info_.joints * 3,
                               clip.person_lengths.data(), 1, static_cast<int64_t>(clip.person_lengths.size()),
                               packed.features.data() + before));
    packed.cu_seqlens.push_back(packed.rows() + clip.rows);
}

void Recognizer::run(const Packed &packed, float *logits) const {
    tools::check(star_run(context_.get(), packed.features.data(), packed.cu_seqlens.data(), packed.clips(), logits));
}

SelfTest Recognizer::self_test(const Golden &golden, const std::string &bundle) {
    if (golden.joint_count != info_.joints || golden.classes != info_.classes)
        throw mismatch_error("golden clips do not belong to this bundle",
                             {.where = bundle,
                              .found = concat(golden.joint_count, " joints, ", golden.classes, " classes"),
                              .expected = concat(info_.joints, " joints, ", info_.classes, " classes"),
                              .next = "export the bundle again"});
    const auto tolerance = golden.tolerances.find(precision());
    if (tolerance == golden.tolerances.end())
        throw input_error("golden clips have no tolerance for " + precision(),
                          {.where = bundle, .next = "export the bundle again"});
    Packed packed;
    packed.cu_seqlens = golden.cu_seqlens;
    packed.features.resize(static_cast<size_t>(packed.rows() * info_.joints * info_.channels));
    tools::check(star_features(model_.get(), golden.joints.data(), golden.person_lengths.data(), golden.clips, golden.persons,
                               packed.features.data()));
    std::vector<float> logits(golden.logits.size());
    run(packed, logits.data());
    const SelfTest result{golden.clips, relative_error(logits, golden.logits), tolerance->second};
    if (result.error <= result.tolerance) return result;
    throw Failure(Exit::gate_missed, "the golden clips give other logits with " + describe(),
                  {.where = bundle,
                   .found = formatted("relative error %.2e", result.error),
                   .expected = formatted("at most %.0e", result.tolerance),
                   .next = "star-run " + bundle + " --self-test --isa portable"});
}

Packed Recognizer::pack(std::span<const Recording> recordings) const {
    Packed all;
    for (const Recording &recording : recordings)
        for (const Clip &clip : recording.clips) append(recording, clip, all);
    return all;
}

Bench Recognizer::bench(std::span<const Recording> recordings, double seconds) {
    const std::vector<float> expected = logits(recordings);
    const Packed all = pack(recordings);
    std::vector<float> found(expected.size());
    run(all, found.data());  // the first run of a size allocates
    std::vector<double> times;
    double before = seconds_now();
    for (const double end = before + seconds; before < end || static_cast<int64_t>(times.size()) < LEAST_CALLS;) {
        run(all, found.data());
        const double after = seconds_now();
        times.push_back(after - before);
        if (found != expected) throw Failure(Exit::unexpected, "two runs of the same clips gave different logits");
        before = seconds_now();
    }
    Bench result = percentiles(std::move(times));
    result.clips = all.clips();
    result.frames = all.rows();
    return result;
}

std::vector<StageShare> Recognizer::profile(std::span<const Recording> recordings, double seconds) {
    const Packed all = pack(recordings);
    std::vector<float> logits(static_cast<size_t>(all.clips() * info_.classes));
    run(all, logits.data());  // the first run of a size allocates
    tools::check(star_context_profile(context_.get(), 1));
    for (const double end = seconds_now() + seconds; seconds_now() < end;) run(all, logits.data());
    std::vector<StageShare> stages;
    double total = 0, of_stage = 0;
    for (int32_t index = 0; const char *name = star_context_stage(context_.get(), index, &of_stage); index++) {
        stages.push_back({name, of_stage});
        total += of_stage;
    }
    tools::check(star_context_profile(context_.get(), 0));
    for (StageShare &stage : stages) stage.share /= total;
    std::sort(stages.begin(), stages.end(), [](const auto &a, const auto &b) { return a.share > b.share; });
    return stages;
}

std::vector<double> softmax(std::span<const float> logits) {
    const double largest = *std::max_element(logits.begin(), logits.end());
    std::vector<double> probabilities;
    for (const float logit : logits) probabilities.push_back(std::exp(logit - largest));
    const double sum = std::accumulate(probabilities.begin(), probabilities.end(), 0.0);
    for (double &probability : probabilities) probability /= sum;
    return probabilities;
}

int64_t best_of(std::span<const float> logits) { return std::max_element(logits.begin(), logits.end()) - logits.begin(); }

}  // namespace star::tools
