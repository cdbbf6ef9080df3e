// The C interface: checks arguments, keeps what handles stand for alive, and turns exceptions into statuses.
#include "star_edge/star.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "bundle.h"
#include "cpu.h"
#include "error.h"
#include "joint_features.h"
#include "message.h"
#include "program.h"
#include "star_config.h"
#include "stream.h"

namespace {

using star::Error;
using star::message;

constexpr int32_t kMostThreads = 1024;

/// What is left of a bundle once its weights are packed; shared by a model's handle, its contexts and their streams.
struct Model {
    std::shared_ptr<const star::Program> program;
    star::FeatureRecipe features;
    std::vector<std::string> class_names;
    std::string bundle_id;
    std::map<std::string, std::string> modules;  // path -> precision

    int64_t joints() const { return program->config.joints; }
    int64_t classes() const { return program->config.classes; }
};

}  // namespace

struct star_model {
    std::shared_ptr<const Model> model;
};

struct star_context {
    std::shared_ptr<const Model> model;
    std::shared_ptr<star::Runner> runner;
};

struct star_stream {
    std::shared_ptr<const Model> model;
    star::Stream stream;
};

namespace {

thread_local std::string last_error;

star_status fail(star_status status, const char *text) noexcept {
    try {
        last_error = text;
    } catch (...) {
        last_error.clear();
    }
    return status;
}

/// Runs the body of a call; no exception leaves it.
template <class Body>
star_status guarded(const Body &body) noexcept {
    try {
        body();
        return STAR_OK;
    } catch (const Error &error) {
        return fail(error.status, error.what());
    } catch (const std::bad_alloc &) {
        return fail(STAR_OUT_OF_MEMORY, "out of memory");
    } catch (const std::length_error &) {
        return fail(STAR_OUT_OF_MEMORY, "out of memory");  // more than any memory
    } catch (const std::filesystem::filesystem_error &error) {
        return fail(STAR_IO, error.what());
    } catch (const std::system_error &) {
        return fail(STAR_OUT_OF_MEMORY, "the system has no more threads; next: ask for fewer");
    } catch (const std::exception &error) {
        return fail(STAR_INTERNAL, error.what());
    } catch (...) {
        return fail(STAR_INTERNAL, "unknown exception");
    }
}

/// Called once something is wrong: a call that succeeds makes no texts, which would allocate.
[[noreturn]] void refuse(const char *what, const std::string &found, const std::string &expected) {
    throw Error(STAR_INVALID_ARGUMENT, message(what, {.found = found, .expected = expected}));
}

void require_pointer(const void *pointer, const char *name) {
    if (pointer == nullptr) throw Error(STAR_INVALID_ARGUMENT, message("null pointer", {.where = name, .expected = "memory"}));
}

/// Rows times row_size floats can be addressed.
void require_addressable(int64_t rows, int64_t row_size) {
    const int64_t most = std::numeric_limits<int64_t>::max() / static_cast<int64_t>(sizeof(float)) / row_size;
    if (rows > most) refuse("more rows than memory can hold", std::to_string(rows), "at most " + std::to_string(most));
}

/// As compile() packs it, and as it is multiplied: what is stored in less may be computed in float32.
std::string module_precision(const star::Bundle &bundle, const star::Program &program, const std::string &module,
                             bool is_linear) {
    if (!is_linear) return "fp32";
    switch (program.precision) {
        case STAR_PRECISION_INT8:
            return bundle.quantised.count(module) ? "int8" : program.unquantised;
        case STAR_PRECISION_BF16:
            return module.rfind("layers.", 0) == 0 ? program.compute : "fp32";
        default:
            return program.compute;
    }
}

std::map<std::string, std::string> module_precisions(const star::Bundle &bundle, const star::Program &program) {
    std::set<std::string> linear;
    for (const star::Matrix &matrix : star::star_matrices(bundle.config)) linear.insert(matrix.path);
    std::map<std::string, std::string> precisions;
    for (const std::string &module : star::star_modules(bundle.config))
        precisions.emplace(module, module_precision(bundle, program, module, linear.count(module) > 0));
    return precisions;
}

/// folder: the bundle's, empty where it is in memory.
star_model *make_model(star::Bundle bundle, star_precision precision, star_isa isa, const std::filesystem::path &folder) {
    Model model;
    model.program = star::compile(bundle, precision, isa, folder);
    model.modules = module_precisions(bundle, *model.program);
    model.features = std::move(bundle.features);
    model.class_names = std::move(bundle.class_names);
    model.bundle_id = std::move(bundle.bundle_id);
    return new star_model{std::make_shared<const Model>(std::move(model))};
}

void check_choice(star_precision precision, star_isa isa) {
    if (precision < STAR_PRECISION_DEFAULT || precision > STAR_PRECISION_INT8)
        refuse("unknown precision", std::to_string(precision), "a star_precision");
    if (isa < STAR_ISA_AUTO || isa > STAR_ISA_TENSORRT) refuse("unknown instruction set", std::to_string(isa), "a star_isa");
}

std::string_view view_of(const star_bytes &bytes, const char *name) {
    if (bytes.size == 0) return {};
    require_pointer(bytes.data, name);
    return {static_cast<const char *>(bytes.data), bytes.size};
}

/// Rows of all clips.
int64_t check_cu_seqlens(const int64_t *cu_seqlens, int64_t clips) {
    if (clips < 0 || clips == std::numeric_limits<int64_t>::max())
        refuse("clips out of range", std::to_string(clips), "0 or more");
    require_pointer(cu_seqlens, "cu_seqlens");
    if (cu_seqlens[0] != 0) refuse("cu_seqlens must start at 0", std::to_string(cu_seqlens[0]), "0");
    for (int64_t clip = 0; clip < clips; clip++) {
        const int64_t begin = cu_seqlens[clip], end = cu_seqlens[clip + 1];
        if (end < begin)
            refuse("cu_seqlens descends",
                   std::to_string(begin) + " then " + std::to_string(end) + " at clip " + std::to_string(clip),
                   "non-decreasing offsets");
    }
    return cu_seqlens[clips];
}

/// Rows of all persons of all clips.
int64_t check_person_lengths(const int64_t *lengths, int64_t clips, int64_t persons, int64_t row_size) {
    if (clips < 0) refuse("clips out of range", std::to_string(clips), "0 or more");
    if (persons < 0) refuse("persons out of range", std::to_string(persons), "0 or more");
    if (clips == 0 || persons == 0) return 0;
    if (persons > std::numeric_limits<int64_t>::max() / clips)
        refuse("more persons than memory can hold", std::to_string(persons), "person_lengths [clips, persons]");
    require_pointer(lengths, "person_lengths");
    int64_t rows = 0;
    for (int64_t index = 0; index < clips * persons; index++) {
        if (lengths[index] < 0)
            refuse("a negative length in person_lengths",
                   std::to_string(lengths[index]) + " at clip " + std::to_string(index / persons) + ", person " +
                       std::to_string(index % persons),
                   "0 or more");
        require_addressable(lengths[index], row_size);
        rows += lengths[index];  // both below a quarter of what fits
        require_addressable(rows, row_size);
    }
    return rows;
}

void check_finite(const float *joints, int64_t rows, int64_t count) {
    const int64_t bad = star::first_bad_joint(joints, rows * count);
    if (bad < 0) return;
    refuse("joints hold NaN or infinity", "row " + std::to_string(bad / count) + ", joint " + std::to_string(bad % count),
           "finite coordinates (zeros where a joint is lost)");
}

}  // namespace

const char *star_version(void) { return STAR_EDGE_VERSION; }

int32_t star_abi_version(void) { return STAR_ABI_VERSION; }

const char *star_last_error(void) { return last_error.c_str(); }

const char *star_instruction_sets(void) { return star::instruction_sets().c_str(); }

const char *star_products(star_precision precision, star_isa isa) {
    if (precision < STAR_PRECISION_FP32 || precision > STAR_PRECISION_INT8) return nullptr;
    return star::products_of(precision, isa);
}

star_status star_model_load(const char *path, star_precision precision, star_isa isa, star_model **model) {
    return guarded([&] {
        require_pointer(model, "model");
        *model = nullptr;
        require_pointer(path, "path");
        check_choice(precision, isa);
        *model = make_model(star::read_bundle(path), precision, isa, path);
    });
}

star_status star_model_load_bytes(star_bytes manifest, star_bytes weights, star_bytes calibration, star_precision precision,
                                  star_isa isa, star_model **model) {
    return guarded([&] {
        require_pointer(model, "model");
        *model = nullptr;
        check_choice(precision, isa);
        const star::BundleBytes bytes{view_of(manifest, "manifest"), view_of(weights, "weights"),
                                      view_of(calibration, "calibration")};
        *model = make_model(star::parse_bundle(bytes), precision, isa, {});
    });
}

void star_model_free(star_model *model) { delete model; }

star_status star_model_describe(const star_model *model, star_model_info *info) {
    return guarded([&] {
        require_pointer(model, "model");
        require_pointer(info, "info");
        const star::Program &program = *model->model->program;
        const star::Config &config = program.config;
        *info = {.joints = config.joints,
                 .channels = config.channels,
                 .classes = config.classes,
                 .dim = config.dim,
                 .heads = config.heads,
                 .layers = config.layers,
                 .precision = program.precision,
                 .isa = program.isa,
                 .products = program.products.c_str(),
                 .storage = program.storage.c_str(),
                 .compute = program.compute.c_str(),
                 .bundle_id = model->model->bundle_id.c_str()};
    });
}

const char *star_model_class_name(const star_model *model, int64_t index) {
    if (model == nullptr || index < 0 || index >= model->model->classes()) return nullptr;
    return model->model->class_names[static_cast<std::size_t>(index)].c_str();
}

const char *star_model_module_precision(const star_model *model, const char *module) {
    if (model == nullptr || module == nullptr) return nullptr;
    for (const auto &[path, precision] : model->model->modules) {  // compares without making a string, which could throw
        if (path == module) return precision.c_str();
    }
    return nullptr;
}

star_status star_context_create(const star_model *model, int32_t threads, star_context **context) {
    return guarded([&] {
        require_pointer(context, "context");
        *context = nullptr;
        require_pointer(model, "model");
        if (threads < 0 || threads > kMostThreads)
            refuse("threads out of range", std::to_string(threads), "0 to " + std::to_string(kMostThreads));
        std::shared_ptr<star::Runner> runner =
            model->model->program->make_runner(threads == 0 ? star::usable_cores() : threads);
        *context = new star_context{model->model, std::move(runner)};
    });
}

void star_context_free(star_context *context) { delete context; }

int32_t star_context_threads(const star_context *context) { return context == nullptr ? 0 : context->runner->threads(); }

star_status star_context_profile(star_context *context, int32_t on) {
    return guarded([&] {
        require_pointer(context, "context");
        context->runner->profile(on != 0);
    });
}

const char *star_context_stage(const star_context *context, int32_t index, double *seconds) {
    if (context == nullptr || seconds == nullptr) return nullptr;
    return context->runner->stage(index, *seconds);
}

star_status star_run(star_context *context, const float *features, const int64_t *cu_seqlens, int64_t clips, float *logits) {
    return guarded([&] {
        require_pointer(context, "context");
        const star::Config &config = context->model->program->config;
        const int64_t rows = check_cu_seqlens(cu_seqlens, clips);
        require_addressable(rows, config.joints * config.channels);
        if (rows > 0) require_pointer(features, "features");
        if (clips == 0) return;
        require_pointer(logits, "logits");
        context->runner->run(features, cu_seqlens, clips, logits);
    });
}

star_status star_features(const star_model *model, const float *joints, const int64_t *person_lengths, int64_t clips,
                          int64_t persons, float *features) {
    return guarded([&] {
        require_pointer(model, "model");
        const Model &of = *model->model;
        const int64_t rows = check_person_lengths(person_lengths, clips, persons, of.joints() * of.program->config.channels);
        if (rows == 0) return;
        require_pointer(joints, "joints");
        require_pointer(features, "features");
        check_finite(joints, rows, of.joints());
        star::compute_features(of.features, joints, person_lengths, clips, persons, features);
    });
}

star_status star_stream_create(star_context *context, int64_t window, int64_t hop, star_stream **stream) {
    return guarded([&] {
        require_pointer(stream, "stream");
        *stream = nullptr;
        require_pointer(context, "context");
        if (window < 1) refuse("window of a stream without frames", std::to_string(window), "at least 1");
        if (hop < 1) refuse("hop of a stream without frames", std::to_string(hop), "at least 1");
        const std::shared_ptr<const Model> &model = context->model;
        *stream = new star_stream{model, star::Stream(model->features, model->classes(), context->runner, window, hop)};
    });
}

void star_stream_free(star_stream *stream) { delete stream; }

star_status star_stream_push(star_stream *stream, const star_person *persons, int64_t count, star_stream_result *result,
                             float *logits, int32_t *ready) {
    return guarded([&] {
        require_pointer(stream, "stream");
        require_pointer(result, "result");
        require_pointer(ready, "ready");
        *ready = 0;
        if (count < 0) refuse("count out of range", std::to_string(count), "0 or more");
        if (count > 0) require_pointer(persons, "persons");
        for (int64_t index = 0; index < count; index++) require_pointer(persons[index].joints, "joints of a person");
        if (!stream->stream.push(persons, count)) return;
        *result = stream->stream.result();
        if (logits != nullptr && result->rows > 0)
            std::copy(stream->stream.logits().begin(), stream->stream.logits().end(), logits);
        *ready = 1;
    });
}

star_status star_stream_persons(const star_stream *stream, int64_t *ids) {
    return guarded([&] {
        require_pointer(stream, "stream");
        if (stream->stream.ids().empty()) return;
        require_pointer(ids, "ids");
        std::copy(stream->stream.ids().begin(), stream->stream.ids().end(), ids);
    });
}
